"""Automates runs: jobs, the sensor of due variants, the run coordinator, the instance."""
