"""Says what the erasure of records takes."""
