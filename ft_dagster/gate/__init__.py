"""Compares and judges answers: pure statistics, without torch."""
