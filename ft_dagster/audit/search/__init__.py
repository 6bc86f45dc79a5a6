"""Searches stored text for a text, and for records that are nearly it."""
