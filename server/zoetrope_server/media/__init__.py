"""Pictures in, videos out: decoding (in killable workers), fitting and encoding.

Nothing is imported here: a decode worker imports `media.decode` and must not pay for the video codec.
"""
