"""Keeps events until each target was told."""
