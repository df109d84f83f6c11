"""Running a plan: planning, resuming, workers and their executor, progress, tracking."""
