__version__ = "13.4.4"
