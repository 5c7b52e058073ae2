"""Agents that plan with a model of the task."""
