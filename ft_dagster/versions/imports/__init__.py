"""Reads the files of other services and programs, and writes a declaration from them that says what became of
each field.
"""
