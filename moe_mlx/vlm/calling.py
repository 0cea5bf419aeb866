"""Lets mlx-lm's loops call a model of mlx-vlm: tokens and a cache in, logits out.

mlx-vlm's models take pictures and give an object; its own loop calls the language model for every token after the
prompt, and so do we for the prompt too, which is the same computation where there is no picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx import nn


class Logits:
    """Stands in front of a model's own class; parameters and children stay as they are.

    Attributes:
        probed_tokens: The longest call that shows what a cache takes: over a longer one, DeepSeek V4's block filter
            computes what is only to be looked at.
        shows_pictures: Whether the conversation under way has pictures, which moved its positions as the model notes.
    """

    probed_tokens = 1024
    shows_pictures = False

    def __call__(self: Any, inputs: mx.array, cache: Any = None, input_embeddings: mx.array | None = None) -> mx.array:
        """Computes logits `[B, L, V]` of tokens `[B, L]`.

        Args:
            inputs: Token ids.
            cache: A prompt cache of `make_prompt_cache`.
            input_embeddings: `[B, L, D]`, what stands for the tokens, where something does.
        """
        language = self.language_model
        positions = {} if self.shows_pictures else _positions(language, inputs, cache)
        given = {} if input_embeddings is None else {"inputs_embeds": input_embeddings}
        logits: mx.array = language(inputs, cache=cache, **positions, **given).logits
        return logits

    def note_pictures(self, shown: bool) -> None:
        """Tells whether what is called from now on follows pictures."""
        object.__setattr__(self, "shows_pictures", shown)

    @property
    def layers(self: Any) -> Sequence[nn.Module]:
        """As mlx-lm asks for them, to make a cache."""
        language = self.language_model
        found: Sequence[nn.Module] = language.layers if hasattr(language, "layers") else language.model.layers
        return found


class OwnCache:
    """For a language model that makes its own caches."""

    def make_cache(self: Any) -> list[Any]:
        """Returns an empty cache."""
        made: list[Any] = self.language_model.make_cache()
        return made


def answer_with_logits(model: nn.Module) -> None:
    """Lets a model of mlx-vlm be called as mlx-lm calls its own, in place."""
    own = type(model)
    bases = (Logits, OwnCache) if hasattr(model.language_model, "make_cache") else (Logits,)
    model.__class__ = type(own.__name__, (*bases, own), {"__module__": own.__module__})


def built_by_mlx_vlm(model: nn.Module) -> bool:
    """Whether a model is one of mlx-vlm that mlx-lm's loops may call."""
    return isinstance(model, Logits)


def _positions(language: nn.Module, inputs: mx.array, cache: Any) -> dict[str, Any]:
    """Returns what text needs to be told of positions, where a model has more than one axis of them.

    Such a model notes how far the pictures of its latest prompt moved the positions; text of another conversation, or
    one gone on with from a kept cache, is moved by nothing.
    """
    if not hasattr(language, "_rope_deltas"):
        return {}
    language._position_ids = None
    if not _filled(cache):
        language._rope_deltas = None
        return {}
    return {"rope_deltas": mx.zeros((inputs.shape[0], 1), mx.int32)}


def _filled(cache: Any) -> bool:
    """Whether a cache holds any token."""
    for part in cache or ():
        offset = getattr(part, "offset", None)
        if isinstance(offset, int):
            return offset > 0
    return False
