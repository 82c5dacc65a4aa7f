"""A run's configuration: its sections, and TOML."""
