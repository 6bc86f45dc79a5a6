"""Rows and documents become tokens."""
