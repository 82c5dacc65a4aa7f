"""Recipes: the thesis' experiments and one's own, and what runs them."""
