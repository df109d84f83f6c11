"""Running a plan: planning, resuming, machines and executors, workers, turns, progress, tracking."""
