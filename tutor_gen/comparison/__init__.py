"""Stores side by side: which tutor is best, what each misses and invents, where they differ."""
