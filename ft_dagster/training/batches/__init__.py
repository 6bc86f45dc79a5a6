"""Examples are packed into batches, and attention is kept within each."""
