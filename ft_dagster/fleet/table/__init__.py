"""Keeps the table of what is known of each variant."""
