"""What the app costs a running model, and whether it lasts."""
