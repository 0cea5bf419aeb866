"""How each family of mlx-lm routes, restated for decode steps: what it ranks by, how it picks, how it weighs."""
