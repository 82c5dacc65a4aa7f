"""Stage 2: a BlitzNet student that learns from ground truth, tutors, or both."""
