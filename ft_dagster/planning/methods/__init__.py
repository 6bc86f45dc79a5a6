"""Chooses method and settings: defaults, rules, the decision, what to change where nothing fits."""
