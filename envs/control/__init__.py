"""Classic control with changing physics."""
