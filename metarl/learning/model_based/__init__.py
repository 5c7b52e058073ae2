"""Models of a task that transitions adapt, and planning with them."""
