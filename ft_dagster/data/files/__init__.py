"""Parquet and tables are read and written."""
