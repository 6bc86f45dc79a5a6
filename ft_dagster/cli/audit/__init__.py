"""Defines the commands that ask what was recorded: which records made a model, and what came of a record."""
