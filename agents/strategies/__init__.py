"""Strategies: agents that choose among learners, weigh them, or share what they know."""
