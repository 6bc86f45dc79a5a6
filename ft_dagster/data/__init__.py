"""From declared sources to training examples: read, check, deduplicate, split, render, mix."""
