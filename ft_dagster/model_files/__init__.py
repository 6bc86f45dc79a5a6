"""Reads the files of a model: configuration, headers, tensors."""
