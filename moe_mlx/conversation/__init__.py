"""A conversation with a loaded model: turns, sampling, receipts, audits."""
