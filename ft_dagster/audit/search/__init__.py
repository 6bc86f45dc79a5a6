"""Stored text is searched for a text, and for records that are nearly it."""
