"""Reads a prompt with pictures into a prompt cache, all but its last token, as mlx-vlm's own loop does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.vlm.processing import PicturePrompt

#: What of a processor's output is an argument of its own.
_OWN = ("pixel_values", "attention_mask")


def read_pictures(
    model: nn.Module,
    prompt: PicturePrompt,
    cache: list[Any],
    chunk: int,
    progress: Callable[[int, int], None],
) -> None:
    """Computes everything of a prompt but its last token, which mlx-lm's loop begins with.

    Args:
        model: Built by mlx-vlm.
        prompt: With its pictures.
        cache: An empty prompt cache, filled here.
        chunk: Tokens of a step, where the model reads prompts in parts.
        progress: Called with tokens read and tokens in all.

    Raises:
        Exception: what `progress` raises; the cache then holds the tokens that it was told of.
    """
    from mlx_vlm.generate.common import _chunked_prefill_enabled

    language = model.language_model
    for name in ("_position_ids", "_rope_deltas"):
        if hasattr(language, name):
            setattr(language, name, None)
    model.note_pictures(True)
    ids = mx.array([list(prompt)])
    given = {name: value for name, value in prompt.inputs.items() if name not in _OWN}
    features = model.get_input_embeddings(
        ids, prompt.inputs.get("pixel_values"), mask=prompt.inputs.get("attention_mask"), **given
    ).to_dict()
    embedded = features.pop("inputs_embeds")
    given.update({name: value for name, value in features.items() if value is not None})
    if not _chunked_prefill_enabled(
        model, input_ids=ids, inputs_embeds=embedded, prompt_cache=cache, prefill_kwargs=given
    ):
        chunk = len(prompt)
    done, total = 0, len(prompt)
    progress(0, total)
    while done < total - 1:
        count = min(chunk, total - 1 - done)
        part = slice(done, done + count)
        language(
            ids[:, part],
            inputs_embeds=embedded[:, part],
            cache=cache,
            n_to_process=count,
            logits_to_keep=1,
            **given,
        )
        mx.eval([entry.state for entry in cache])
        done += count
        progress(done, total)
        mx.clear_cache()
