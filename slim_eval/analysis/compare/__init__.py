"""Two measurements beside each other: what may be compared, how much they differ, and if that is beyond doubt."""
