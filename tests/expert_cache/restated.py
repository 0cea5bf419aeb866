"""An oracle's own block in place of mlx-lm's Qwen3-MoE block, and the decode steps that are compared."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.qwen3_moe import Qwen3MoeSparseMoeBlock


class Restated:
    """What restates the block."""

    def block(self, block: Any, x: mx.array) -> mx.array:
        """Computes `[..., D]`."""
        raise NotImplementedError

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Lets mlx-lm's block compute this."""

        def called(block: Any, x: mx.array) -> mx.array:
            return self.block(block, x)

        with mock.patch.object(Qwen3MoeSparseMoeBlock, "__call__", called):
            yield


def turns(model: Any, seed: int = 3) -> list[mx.array]:
    """Decode steps of two conversations; the logits of each."""
    random, outputs = np.random.default_rng(seed), []
    for _ in range(2):
        cache = make_prompt_cache(model)
        for token in random.integers(5, 90, 16).tolist():
            outputs.append(model(mx.array([[token]]), cache=cache))
            mx.eval(outputs[-1])
    return outputs
