"""Answers are compared and judged: pure statistics, without torch."""
