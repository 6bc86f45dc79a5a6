"""What is trained again now is decided, and what it costs."""
