"""mlx-vlm, an optional extra: models that only it can build, run under our caps by mlx-lm's loops; and pictures."""
