"""Few-shot regression and classification."""
