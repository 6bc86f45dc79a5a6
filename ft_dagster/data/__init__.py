"""Turns declared sources into training examples: read, check, deduplicate, split, render, mix."""
