"""Task inference: beliefs about the task, what trains them, and the trials that they are trained on."""
