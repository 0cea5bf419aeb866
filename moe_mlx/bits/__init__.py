"""Fewer bits for some experts: what each width costs an expert on a text, and who gets which."""
