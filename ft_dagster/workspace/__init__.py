"""A variant at work: keys, inputs, builds, and where they reach the store."""
