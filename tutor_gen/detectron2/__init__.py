"""Tutors that are Detectron2 models."""
