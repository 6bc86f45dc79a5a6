"""What a training shows of itself: forgetting, the adapter's spectrum, its curves in words, its work."""
