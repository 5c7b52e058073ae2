"""Uniformly random actions: the floor of every family."""

from metarl.learning.random_play import RandomPlay as Random

__all__ = ["Random"]
