"""State, step, loop, hooks, and what a run leaves behind."""
