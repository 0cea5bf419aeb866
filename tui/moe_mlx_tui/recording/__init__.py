"""What the app showed, written down and played again."""
