"""Makes a model again from what was recorded, and compares it with the first."""
