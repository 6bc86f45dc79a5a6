"""Sweeps, bake-offs and their budgets."""
