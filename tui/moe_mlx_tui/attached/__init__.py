"""A running server as the model: what it holds and counts, and answers from it, over HTTP."""
