"""Renders rows and documents as tokens."""
