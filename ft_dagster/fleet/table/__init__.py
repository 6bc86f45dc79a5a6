"""The table of what is known of each variant."""
