"""What a model counts while it runs: events and steps, their sums by phase, and what reads took."""
