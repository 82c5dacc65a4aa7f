"""Training: read `train` from top to bottom."""
