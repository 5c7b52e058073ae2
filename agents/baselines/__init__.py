"""Baselines: random play, the informed optimum, training without meta-learning, and Stable-Baselines3's algorithms."""
