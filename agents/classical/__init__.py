"""Classical algorithms for bandits and tabular MDPs."""
