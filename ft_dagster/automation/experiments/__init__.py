"""Runs sweeps, bake-offs and their budgets."""
