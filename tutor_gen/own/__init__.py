"""Tutors that users write themselves, named by the function that makes them."""
