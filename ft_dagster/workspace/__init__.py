"""Puts a variant to work: keys, inputs, builds, and where they reach the store."""
