"""The models that answer questions, and how they are loaded."""
