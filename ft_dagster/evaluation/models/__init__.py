"""Loads the models that answer questions, and asks them."""
