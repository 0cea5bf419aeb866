"""Which experts a model used in earlier runs, and filling empty slots from that."""
