"""The steps from a declaration to a release, free of Dagster: one file a stage."""
