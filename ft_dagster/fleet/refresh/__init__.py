"""Brings the table up to what files, store and sources say now."""
