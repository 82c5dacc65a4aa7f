"""From image ids to batches: which image learns from whom, what is drawn, what is read."""
