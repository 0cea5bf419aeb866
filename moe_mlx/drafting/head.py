"""A multi-token-prediction head as a drafter: mlx-vlm's own module, fed with the model's hidden states.

Heads are trained with their model and stand beside it in a folder of their own, as `python -m mlx_vlm.split_mtp` writes
it. mlx-vlm's loops want mlx-vlm's models; its heads want embeddings, output layer and hidden states, which mlx-lm's
model of the same family has too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from moe_mlx.errors import UsageError
from moe_mlx.loading.skeleton import read_weights
from moe_mlx.vlm.installed import require

#: Heads that are run, and the family of mlx-lm whose caches can be cut back and whose hidden states they read.
HEADS = {"glm_moe_dsa_mtp": "glm_moe_dsa"}
#: Tokens whose hidden states wait for the head to read them, at most.
_WAITING = 1024


def is_head(config: Mapping[str, Any]) -> bool:
    """Whether a config is of a prediction head and not of a model."""
    return str(config.get("model_type")).endswith("_mtp")


def drafts_of(config: Mapping[str, Any]) -> int:
    """Returns how many tokens a head was made to guess at a time."""
    return max(1, int(config.get("block_size", 2)) - 1)


def load_head(folder: Path, config: Mapping[str, Any], family: str) -> nn.Module:
    """Loads a head by mlx-vlm's classes.

    Args:
        folder: Where it is.
        config: Its config.
        family: Of the model that decides.

    Raises:
        UsageError: it is of another family, or of one that is not drafted for here.
        UnsupportedModelError: mlx-vlm is not there.
    """
    kind = str(config.get("model_type"))
    if HEADS.get(kind) != family:
        raise UsageError(
            f"--draft-model {folder.name}: a head of kind {kind[:80]!r} does not draft for {family} here; "
            f"those that are run: {', '.join(f'{head} for {model}' for head, model in HEADS.items())}"
        )
    require(f"{folder}: a prediction head")
    from mlx_vlm.utils import get_model_and_args, load_model_weights

    own = {name: value for name, value in config.items() if name != "model_file"}  # code of its own: never run
    architecture = get_model_and_args(own)[0]
    head = architecture.Model(architecture.ModelConfig.from_dict(own))
    loaded: nn.Module = load_model_weights(head, own, read_weights(sorted(folder.glob("*.safetensors"))), folder)
    return loaded


def logits_and_hidden(model: nn.Module, tokens: mx.array, cache: list[Any]) -> tuple[mx.array, mx.array]:
    """Calls a model of `HEADS` as its own `__call__` does, and returns what its output layer was given too."""
    hidden = model.model(tokens, cache)
    return model.lm_head(hidden), hidden


@dataclass(slots=True)
class _Fed:
    """Tokens that the model was fed, and their hidden states `[1, L, D]`; verified together, or one by one."""

    tokens: list[int]
    hidden: list[mx.array]
    verified: bool


class HeadDrafter:
    """Guesses greedily. The head reads each token with the hidden state of the one before it, drafts or not."""

    reads_hidden = True

    def __init__(self, head: nn.Module, model: nn.Module) -> None:
        self.head, self._model = head, model
        self._fed: list[_Fed] = []
        self._seen: list[int] = []
        self._drafts = False
        self.nbytes_of_weights = sum(part.nbytes for _, part in tree_flatten(head.parameters()))
        head.reset(model)

    @property
    def nbytes(self) -> int:
        """See `Drafter`."""
        arrays = [array for _, array in tree_flatten(self.head.draft_eval_state()) if isinstance(array, mx.array)]
        return sum(array.nbytes for array in arrays)

    def begin(self, context: Sequence[int]) -> None:
        """See `Drafter`. What it did not read itself it does without: it guesses worse then, for a while."""
        if list(context) != self._seen:
            self.head.reset(self._model)
            self._fed, self._seen, self._drafts = [], list(context), False

    def took(self, tokens: Sequence[int], hidden: mx.array | None) -> None:
        """See `Drafter`."""
        assert hidden is not None
        self._seen.extend(tokens)
        last = self._fed[-1] if self._fed else None
        if last is None or last.verified or self._drafts:
            self._fed.append(_Fed(list(tokens), [hidden], self._drafts))
        else:
            last.tokens.extend(tokens)
            last.hidden.append(hidden)
        self._drafts = False
        if len(self._fed[-1].tokens) >= _WAITING:
            *before, latest = self._fed[-1].tokens
            wide = mx.concatenate(self._fed[-1].hidden, axis=1)
            self._fed[-1] = _Fed(before, [wide[:, :-1]], self._fed[-1].verified)
            self._read(latest)
            self._fed = [_Fed([latest], [wide[:, -1:]], False)]

    def draft(self, token: int, count: int) -> list[int]:
        """See `Drafter`."""
        self._read(token)
        block = self.head.draft_block(token, None, None, count + 1, None, mx.uint32, greedy=True)
        self._drafts = True
        guesses: list[int] = block.reshape(-1).tolist()
        return guesses

    def _read(self, following: int) -> None:
        """Has the head read what the model was fed, up to the token that follows it."""
        ends = [fed.tokens[0] for fed in self._fed[1:]] + [following]
        for fed, end in zip(self._fed, ends, strict=True):
            rest = mx.array([fed.tokens[1:]], dtype=mx.uint32)
            hidden = mx.concatenate(fed.hidden, axis=1)
            self.head.accept_verified_tokens(hidden, rest, len(fed.tokens) - 1, [end], None, mx.uint32, greedy=True)
        mx.eval(self.head.draft_eval_state())
        self._fed = []
