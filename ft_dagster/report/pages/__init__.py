"""Writes HTML pages: a report as one file, and the pages that `ft-dagster ui` serves."""
