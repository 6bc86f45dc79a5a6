"""The table is brought up to what files, store and sources say now."""
