"""Cache-aware routing: one file per policy, its settings and the names it goes by."""
