"""A conversation with a loaded model: turns, sampling, receipts, audits, and serving them."""
