"""Model families: how each of mlx-lm's MoE blocks chooses its experts, and what puts a policy into it."""
