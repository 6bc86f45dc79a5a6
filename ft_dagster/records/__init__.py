"""Binds records into trees, so that presence and absence can be proved."""
