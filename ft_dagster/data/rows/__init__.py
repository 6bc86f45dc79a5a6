"""Rows are read, deduplicated, decontaminated and split into a data set."""
