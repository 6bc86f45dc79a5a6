"""Watches a training: forgetting, the adapter's spectrum, its curves in words, its work."""
