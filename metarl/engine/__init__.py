"""The engine: environments side by side on their device, and the rollouts that agents play in them."""
