"""State, step, parallelism, checkpoints, the loop and the run directory."""
