"""Keeps the index of records and artifacts, and what it knows of each."""
