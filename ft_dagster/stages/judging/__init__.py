"""Judges again what was made: by the declaration of today, by stored samples, and by what it was made of."""
