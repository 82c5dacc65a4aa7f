"""Tutors that are TorchScript exports."""
