"""Events are kept until each target was told."""
