"""Builds the graph, one file per group: read the declaration, call the core, report metadata."""
