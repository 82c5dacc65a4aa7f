"""A run's directory: what it records, its checkpoints, loading it again."""
