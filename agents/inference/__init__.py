"""Agents that infer the task and act on their belief about it."""
