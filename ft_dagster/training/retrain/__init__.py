"""Trains again without some records, as exactly and as little as can be."""
