"""One model over several machines: who they are, what they agree on, which layers each keeps, what it would bring."""
