"""Agents that adapt by gradient steps."""
