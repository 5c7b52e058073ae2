"""Evaluation: the return after k adaptation steps, its intervals, and the files that keep them."""
