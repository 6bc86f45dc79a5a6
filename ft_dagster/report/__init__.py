"""What people look at: plots, tables, answers side by side, the state of a variant in a row."""
