"""Proves that a record is, or is not, among those that a model was trained on."""
