"""Cache-aware routing: one file per policy, one adapter per router family."""
