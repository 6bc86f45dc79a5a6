"""Decides which variants are trained again now, and what that costs."""
