"""Training what is resident while experts come and go: LoRA by mlx-lm, under the cap."""
