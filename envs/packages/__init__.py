"""Families of other packages: Meta-World and MiniGrid."""
