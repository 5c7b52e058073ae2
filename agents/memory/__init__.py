"""Agents that adapt by what they remember."""
