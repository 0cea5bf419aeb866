"""What only training a model with a prediction head needs: MLX alone, and mlx-vlm for the head."""
