"""Answers questions about a version: is it up to date, what made it, what does it hold."""
