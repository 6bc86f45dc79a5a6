"""Draws charts as SVG: for the report, for Dagster's pages, and the memory of each method."""
