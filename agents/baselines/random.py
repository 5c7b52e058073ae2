"""The agent `random`: uniformly random actions, whose return is the floor of a family."""

from metarl.learning.random_play import RandomPlay as Random

__all__ = ["Random"]
