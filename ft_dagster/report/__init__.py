"""Shows what people look at: plots, tables, answers in pairs, the state of a variant in a row."""
