"""Task families: what a task is, how tasks are drawn, split and saved, and how families are registered."""
