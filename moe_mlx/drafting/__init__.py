"""Drafts of a smaller model or of a prediction head, verified exactly, and the gate that turns them off."""
