"""From a tutor's instances to label vectors: hard, soft, panoptic."""
