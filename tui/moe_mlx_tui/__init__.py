"""The terminal app: chat with the expert cache alive beside it. Reaches the runtime, never the converter."""
