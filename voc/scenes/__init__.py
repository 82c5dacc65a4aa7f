"""Drawn scenes in the layout of a devkit: what the demo and the tests learn from."""
