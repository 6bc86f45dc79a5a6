"""Describes what a training computes on: GPUs by catalogue, CPUs by what the kernel says."""
