"""Decoding: files to upright sRGB pixels, in process and in worker processes."""
