"""Tutors that are torchvision's own models, by name."""
