"""The parts of gradient-based agents: a policy, an inner loop that adapts it, an outer loss, and an outer optimiser."""
