"""The client of Zoetrope: a light install without torch or server parts."""
