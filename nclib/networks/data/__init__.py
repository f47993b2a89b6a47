"""Data sets as arrays: where they are, how their files are read, and how the official ones are
fetched.
"""
