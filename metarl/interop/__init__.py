"""Families and agents in other libraries: Gymnasium environments, Stable-Baselines3 models."""
