"""Baselines: random play, the informed optimum, and Stable-Baselines3's algorithms."""
