"""Which of VOC's classes a tutor's names mean."""
