"""Finds base models, checks them, derives them from releases and quantizes them."""
