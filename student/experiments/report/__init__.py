"""Results of recipes as one page."""
