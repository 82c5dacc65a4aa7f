"""Stage 1: tutors label images once and fill a tutor cache."""
