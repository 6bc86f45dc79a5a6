"""Checks a whole store against itself."""
