"""Reads, deduplicates, decontaminates and splits rows into a data set."""
