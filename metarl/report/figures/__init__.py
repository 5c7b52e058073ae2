"""Figures of results: their style, curves, comparisons of agents, and trials."""
