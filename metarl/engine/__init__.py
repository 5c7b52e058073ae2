"""The engine: batches of environments on one device, and the rollouts that agents play in them."""
