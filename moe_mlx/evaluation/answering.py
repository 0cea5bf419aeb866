"""Exact-match accuracy on tasks: greedy, through the chat template; the prompt exactly, the answer by the policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.evaluation.documents import Task
from moe_mlx.loading.tokenizer import apply_template

#: Tokens that an answer may run on beyond the expected one before it counts as wrong.
_SLACK = 4
_PREFILL_STEP = 512


def prompt_tokens(tokenizer: Any, prompt: str) -> list[int]:
    """Returns a prompt as the chat template puts it, or bare where there is no template."""
    if not tokenizer.has_chat_template:
        return list(tokenizer.encode(prompt))
    return apply_template(tokenizer, [{"role": "user", "content": prompt}], add_generation_prompt=True)


def answer(model: nn.Module, tokenizer: Any, prompt: Sequence[int], most: int) -> str:
    """Returns the greedy answer of at most `most` tokens; as in mlx-lm the last prompt token is a decode step."""
    prompt_cache = make_prompt_cache(model)
    for start in range(0, len(prompt) - 1, _PREFILL_STEP):
        mx.eval(model(mx.array([prompt[start : min(start + _PREFILL_STEP, len(prompt) - 1)]]), cache=prompt_cache))
    token, tokens = prompt[-1], []
    for _ in range(most):
        token = int(mx.argmax(model(mx.array([[token]]), cache=prompt_cache)[0, -1]).item())
        if token in tokenizer.eos_token_ids:
            break
        tokens.append(token)
    return str(tokenizer.decode(tokens))


def accuracy(model: nn.Module, tokenizer: Any, tasks: Sequence[Task], tick: Callable[[int], None]) -> float:
    """Returns the share of tasks answered to the letter (outer white space aside).

    Args:
        model: The model, reset and routed as it is to be judged.
        tokenizer: Its tokenizer.
        tasks: At least one.
        tick: Called with the number of tasks done.
    """
    right = 0
    for done, task in enumerate(tasks, start=1):
        most = len(tokenizer.encode(task.answer)) + _SLACK
        text = answer(model, tokenizer, prompt_tokens(tokenizer, task.prompt), most)
        right += text.strip() == task.answer.strip()
        tick(done)
    return right / len(tasks)
