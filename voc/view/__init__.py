"""Pictures for people: overlays, and pages of them."""
