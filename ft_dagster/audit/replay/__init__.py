"""A model is made again from what was recorded, and held against the first."""
