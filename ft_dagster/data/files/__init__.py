"""Reads and writes Parquet and tables."""
