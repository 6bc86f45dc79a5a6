"""Base models are found, checked, derived from releases and quantized."""
