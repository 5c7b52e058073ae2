"""Off-policy learning: a replay of transitions, and soft actor-critic."""
