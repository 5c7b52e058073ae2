"""Training: the loop, and the directory that a training can be resumed from to the same bits."""
