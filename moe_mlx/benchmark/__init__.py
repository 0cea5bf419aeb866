"""Measuring: the bench against mlx-lm itself in one run, and the disk."""
