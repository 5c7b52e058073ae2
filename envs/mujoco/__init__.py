"""MuJoCo's robots."""
