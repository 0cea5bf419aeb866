"""A fixed run of a model: what prompts and decode steps answer, to be compared bit for bit."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

STEPS = (5, 9, 33, 60, 12, 8, 8, 71)
#: A prompt, some decode steps after it, and a short second prompt.
CALLS = [[(7 * i) % 97 + 5 for i in range(40)], *([token] for token in STEPS), [11, 84, 30]]

Outputs = list[mx.array]


def answer(model: Any) -> Outputs:
    """Returns the logits of every call."""
    cache = make_prompt_cache(model)
    outputs = []
    for tokens in CALLS:
        outputs.append(model(mx.array([tokens]), cache=cache))
        mx.eval(outputs[-1])
    return outputs


def same(left: Outputs, right: Outputs) -> bool:
    """Whether two runs agree in every bit."""
    return all(bool(mx.array_equal(a, b)) for a, b in zip(left, right, strict=True))
