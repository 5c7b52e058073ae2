"""What gradient-based agents are made of: a policy, an inner loop that adapts it, an outer loss and its optimiser."""
