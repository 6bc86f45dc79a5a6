"""Runs as jobs of Slurm: the launcher, what a run's job is told, and what is said of a job that waits."""
