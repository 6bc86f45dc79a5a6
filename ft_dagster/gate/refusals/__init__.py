"""Judges what a model refuses beside its base: prompts that must be refused, and prompts that must not."""
