"""Loads a draft model, once it is known to go with the model that decides."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx import nn
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load as load_whole
from mlx_lm.utils import load_config

from moe_mlx.drafting.drafter import ModelDrafter
from moe_mlx.drafting.drafting import Drafting
from moe_mlx.drafting.head import HeadDrafter, drafts_of, is_head, load_head, logits_and_hidden
from moe_mlx.errors import UsageError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.cutting import can_always_cut
from moe_mlx.planning.kv_cache import KV_TOKENS, kv_bytes, kv_element_bytes
from moe_mlx.routing.names import EXACT
from moe_mlx.store.resolve import resolve

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

#: Tokens that a model drafts at a time, as in mlx_lm.generate.
DEFAULT_DRAFTS = 3
#: What drafts cannot stand beside: its option, and why.
_BESIDE = (
    ("audit", "tokens that are drafted are verified exactly already"),
    ("compare", "tokens that are drafted are routed exactly on both sides"),
    ("pictures", "drafts follow text only"),
)


@dataclass(frozen=True, slots=True)
class DraftWish:
    """A draft model that was asked for, found.

    Attributes:
        name: As it was given.
        folder: Where it is.
        count: Tokens to draft at a time; None for as many as a head was made for, or mlx-lm's 3.
    """

    name: str
    folder: Path
    count: int | None

    def open(self, model: nn.Module, tokenizer: TokenizerWrapper, max_kv_size: int | None = None) -> Drafting:
        """Loads it whole, by mlx-lm; a head by mlx-vlm.

        Args:
            model: That decides.
            tokenizer: Its tokenizer.
            max_kv_size: Tokens of a cache that rotates; None for one that grows.

        Raises:
            UsageError: it does not go with the model.
            UnsupportedModelError: it is a head, and mlx-vlm is not there.
        """
        runtime = runtime_of(model)
        check_cut(model, runtime.kv.family, max_kv_size)
        if is_head(config := load_config(self.folder)):
            drafter = HeadDrafter(load_head(self.folder, config, runtime.kv.family), model)
            return Drafting(
                runtime, drafter, drafts_of(config) if self.count is None else self.count, logits_and_hidden
            )
        draft, other = load_whole(str(self.folder))[:2]
        if len(other) != len(tokenizer) or other.vocab_size != tokenizer.vocab_size:
            raise UsageError(f"--draft-model {self.name}: its tokenizer is not the model's")
        if not can_always_cut(make_prompt_cache(draft)):
            raise UsageError(f"--draft-model {self.name}: its own cache cannot be cut back, which drafting needs")
        return Drafting(runtime, ModelDrafter(draft), DEFAULT_DRAFTS if self.count is None else self.count)


def check_cut(model: nn.Module, family: str, max_kv_size: int | None) -> None:
    """Refuses a model whose cache cannot give rejected tokens back.

    Raises:
        UsageError: it cannot.
    """
    cache = make_prompt_cache(model, max_kv_size)
    if can_always_cut(cache):
        return
    kinds = ", ".join(sorted({type(part).__name__ for part in cache}))
    fault = "--max-kv-size makes a cache that" if can_always_cut(make_prompt_cache(model)) else f"{family}'s cache"
    raise UsageError(
        f"--draft-model: {fault} cannot be cut back, or not once it is long ({kinds}), which drafting needs: leave one "
        "of them out"
    )


def with_draft(args: argparse.Namespace) -> tuple[argparse.Namespace, DraftWish | None]:
    """Finds the draft model that arguments ask for.

    Returns:
        The arguments, routed exactly and with room for it beside the model; and what was found. As they were, and None,
        where they ask for none.

    Raises:
        UsageError: something else was asked for that drafts cannot stand beside.
        StoreMissingError: there is no such model.
    """
    name = getattr(args, "draft_model", None)
    if not name:
        return args, None
    for option, why in _BESIDE:
        if getattr(args, option, None):
            raise UsageError(f"--draft-model: {why}: leave --{option} out")
    for told in getattr(args, "routing_told", ()):
        if told not in ("--routing", "--light") or getattr(args, told[2:]) != EXACT:
            raise UsageError(
                f"--draft-model: drafts are verified with exact routing, and {told} would hold for some tokens and not "
                "for others: leave one of them out"
            )
    folder = resolve(name)
    nbytes = _nbytes(folder, getattr(args, "max_kv_size", None))
    exact = {"routing": EXACT, "light": EXACT, "beside": nbytes}
    return argparse.Namespace(**{**vars(args), **exact}), DraftWish(name, folder, args.num_draft_tokens)


def _nbytes(folder: Path, tokens: int | None) -> int:
    """Returns what a draft model and its KV cache will take."""
    config = load_config(folder)
    weights = sum(path.stat().st_size for path in folder.glob("model*.safetensors"))
    if is_head(config):
        config = {**config["text_config"], "num_hidden_layers": 1}
    return weights + kv_bytes(config, tokens or KV_TOKENS, kv_element_bytes(config))
