"""Decides what is due, and what it may cost: pure decisions over what is known of each variant."""
