"""The stages of the lane: what is run on a machine with a GPU, and without one at toy sizes."""
