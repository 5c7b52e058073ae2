"""Training: the training loop, and run directories from which training resumes with the same bits."""
