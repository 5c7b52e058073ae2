"""Grid worlds, mazes and tabular MDPs."""
