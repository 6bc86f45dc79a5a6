"""Predicts the memory of a training by dry run of its step, on tensors that hold nothing."""
