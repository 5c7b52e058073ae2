"""Bandit families."""
