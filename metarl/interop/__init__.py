"""Families and agents for other libraries: Gymnasium's environments, Stable-Baselines3's models."""
