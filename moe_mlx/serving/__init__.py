"""A model over HTTP: OpenAI's and Anthropic's protocols, one thread that generates, bounds on all that clients send."""
