"""One thread that owns the model, and the picture of it that everyone else reads."""
