"""Holds what launchers of runs on clusters share."""
