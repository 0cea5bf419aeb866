"""How far two distributions of the next token are apart."""

from __future__ import annotations

import mlx.core as mx


def log_probabilities(logits: mx.array) -> mx.array:
    """Returns the log-probabilities of logits `[V]`, in float32, lazily."""
    wide = logits.astype(mx.float32)
    return wide - mx.logsumexp(wide)


def divergence_of(exact: mx.array, policy: mx.array) -> mx.array:
    """Returns KL(exact || policy) in nats, lazily, of two rows of float32 log-probabilities `[V]`."""
    terms = mx.where(mx.isinf(exact), 0.0, mx.exp(exact) * (exact - policy))
    return mx.maximum(terms.sum(), 0.0)
