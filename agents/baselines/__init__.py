"""What every curve is compared with: random play, the informed optimum, Stable-Baselines3's algorithms."""
