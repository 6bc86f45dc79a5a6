"""Traces from a record to every model that learned from it, and back: an index, questions, proofs; nothing of
Dagster.
"""
