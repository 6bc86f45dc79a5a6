"""The index of records and artifacts: how it is kept, and what it knows of each."""
