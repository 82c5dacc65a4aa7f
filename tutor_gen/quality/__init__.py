"""How good tutors are: scores, thresholds, calibration, a store beside its tutors."""
