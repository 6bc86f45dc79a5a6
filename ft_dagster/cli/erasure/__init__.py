"""Defines the commands of an erasure."""
