"""A generation run's parts: reading ahead, asking the tutors, coding beside them."""
