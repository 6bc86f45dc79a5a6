"""Decides when a base or weights are asked, and refuses questions that they were trained on."""
