"""Finds the tasks and texts that are asked, by name or file."""
