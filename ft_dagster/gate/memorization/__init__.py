"""Judges what a model keeps of single rows: repeated texts, rows told from others, canaries."""
