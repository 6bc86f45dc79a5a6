"""The tasks and texts that are asked, found by name or file."""
