"""Offline knowledge distillation for multi-task vision."""
