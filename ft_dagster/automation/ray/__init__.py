"""Runs as jobs of Ray: the launcher, what a run's job is told, and why a job waits."""
