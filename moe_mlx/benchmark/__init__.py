"""Measuring: the bench against mlx-lm, the disk, predictions from headers, and the rig of limits around a command."""
