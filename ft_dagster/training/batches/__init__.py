"""Packs examples into batches, and keeps attention within each example."""
