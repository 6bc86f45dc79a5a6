"""A whole store is held against itself."""
