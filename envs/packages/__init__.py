"""Families of other packages: Meta-World, MiniGrid and highway-env."""
