"""Runs the trainer, a program of its own: `python -m ft_dagster.training RUN_DIR`. It knows nothing of
Dagster.
"""
