"""Experiments as recipes: TOML files whose cells are training runs, and the runner."""
