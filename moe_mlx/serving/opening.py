"""Opens the models that are served; on the generating thread, since MLX's streams belong to threads."""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.conversation.audit import Auditor
from moe_mlx.conversation.joining import Manner, join
from moe_mlx.conversation.keeper import Keeper
from moe_mlx.conversation.leading import LeadingSession
from moe_mlx.conversation.opening import price_of
from moe_mlx.conversation.prompt_store import open_prompt_store
from moe_mlx.conversation.sampling import KVCacheSettings
from moe_mlx.drafting.opening import with_draft
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.cutting import can_always_cut
from moe_mlx.loading.opening import open_model
from moe_mlx.loading.options import Options
from moe_mlx.loading.rehearsal import rehearse, tokenizer_of
from moe_mlx.planning.kv_cache import KV_TOKENS
from moe_mlx.serving.limits import Room, room_of
from moe_mlx.serving.loaded import Loaded

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper

log = logging.getLogger("moe_mlx.serve")


class Loading(Protocol):
    """How arguments become a model; see `moe_mlx.conversation.opening`."""

    def options_of(self, args: argparse.Namespace) -> Options:
        """Returns what they ask for, checked."""

    def load_model(self, args: argparse.Namespace) -> tuple[nn.Module, TokenizerWrapper]:
        """Loads what they name."""

    def finish_tokenizer(self, args: argparse.Namespace, tokenizer: TokenizerWrapper) -> None:
        """Gives a tokenizer what they ask for."""


@dataclass(frozen=True, eq=False)
class ModelOpening:
    """A model that can be opened, with all that the arguments of `moe-mlx serve` say of it."""

    args: argparse.Namespace
    loading: Loading

    def rehearse(self, freed: int) -> None:
        """See `Opening`."""
        rehearse(self.loading.options_of(self.args), freed)

    def open(self) -> Loaded:
        """Loads the model, its draft model and its auditor.

        Raises:
            UsageError: settings that exclude each other, or that this model does not take.
            MoeMlxError: what loading raises.
        """
        args = self.args
        price = price_of(args)
        caching = caching_for(args)
        args, wish = with_draft(args)
        session: LeadingSession | None = None
        if args.parallel is None:
            model, tokenizer = self.loading.load_model(args)
        else:
            session = join(args, log.info, Manner(caching=caching))
            assert session is not None  # the other ranks serve nothing: see `serve`
            model, tokenizer = session.model, session.tokenizer
        self._template(tokenizer)
        runtime = runtime_of(model)
        drafting = None if wish is None else wish.open(model, tokenizer)
        room = room_of(
            runtime.config,
            runtime.kv.tokens,
            runtime.kv.nbytes,
            runtime.plan.mlx_cache,
            caching.prefill_step_size,
            scores_in_memory=not mx.metal.is_available(),
        )
        auditor: Auditor | Keeper | None = None if args.audit is None else Auditor(model, args.audit)
        if price is not None:
            auditor = Keeper(model, price)
        store = None
        if args.prompt_store is not None and price is not None:
            log.warning("prompt caches are not kept between runs: %s moves the routing", price.describe())
        elif args.prompt_store is not None:
            store = open_prompt_store(
                runtime,
                args.prompt_store,
                caching,
                adapter=args.adapter_path,
                most_bytes=args.prompt_store_bytes,
                say=log.warning,
            )
        if not can_always_cut(make_prompt_cache(model)):
            log.info("this model's prompt caches cannot be cut back, or not once they are long: used whole only")
        kept = {"kept_sequences": args.prompt_cache_size, "kept_bytes": args.prompt_cache_bytes}
        return Loaded(model, tokenizer, drafting, caching, room, auditor, store=store, session=session, **kept)

    def for_prompts(self) -> tuple[TokenizerWrapper, Room]:
        """Returns what prompts need of a model that is not loaded; on any thread.

        Raises:
            MoeMlxError: it cannot be opened.
        """
        options = self.loading.options_of(self.args)
        opened = open_model(options)
        try:
            config = dict(opened.source.config)
            tokenizer = tokenizer_of(options, opened)
        finally:
            opened.source.close()
        self.loading.finish_tokenizer(self.args, tokenizer)
        self._template(tokenizer)
        return tokenizer, room_of(config, options.kv.max_kv_size or KV_TOKENS, 0, 0, self.args.prefill_step_size)

    def _template(self, tokenizer: Any) -> None:
        if self.args.chat_template:
            tokenizer.chat_template = self.args.chat_template
            tokenizer.has_chat_template = True


def caching_for(args: argparse.Namespace) -> KVCacheSettings:
    """Returns how a server's KV caches are kept: they grow, within the room that a client is told of."""
    return KVCacheSettings(None, args.prefill_step_size, args.kv_bits, args.kv_group_size, args.quantized_kv_start)


def public_name(model: str) -> str:
    """Returns what clients call a model: a hub repository's name, a folder's own name, never where it lies."""
    path = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) or path.exists() or len(path.parts) > 2:
        return path.resolve().name
    return model
