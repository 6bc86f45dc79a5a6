"""Leads from a declaration to a release in stages, one file each, free of Dagster."""
