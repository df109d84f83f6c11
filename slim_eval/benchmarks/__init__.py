"""The benchmarks: one kind of measurement each, on a loaded engine."""
