"""Opens the model that is served; on the generating thread, since MLX's streams belong to threads."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache
from mlx_lm.utils import load as load_whole

from moe_mlx.conversation.audit import Auditor
from moe_mlx.conversation.prompt_store import open_prompt_store
from moe_mlx.conversation.sampling import CacheSettings
from moe_mlx.errors import UsageError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.planning.kv_cache import head_width
from moe_mlx.serving.limits import room_of
from moe_mlx.serving.loaded import Loaded

log = logging.getLogger("moe_mlx.serve")

#: Loads the model that arguments name.
Loader = Callable[[argparse.Namespace], tuple[nn.Module, Any]]


def open_model(args: argparse.Namespace, load: Loader) -> Loaded:
    """Loads the model, its draft model and its auditor, as the arguments of `moe-mlx serve` name them.

    Raises:
        UsageError: settings that exclude each other, or that this model does not take.
        MoeMlxError: what loading raises.
    """
    caching = CacheSettings(None, args.prefill_step_size, args.kv_bits, args.kv_group_size, args.quantized_kv_start)
    model, tokenizer = load(args)
    if args.chat_template:
        tokenizer.chat_template = args.chat_template
        tokenizer.has_chat_template = True
    runtime = runtime_of(model)
    if caching.kv_bits is not None:
        caching.check_head(head_width(runtime.config))
    draft = None
    if args.draft_model:
        draft, other = load_whole(args.draft_model)[:2]
        if len(other) != len(tokenizer) or other.vocab_size != tokenizer.vocab_size:
            raise UsageError(f"--draft-model {args.draft_model}: its tokenizer is not the model's")
        if not can_trim_prompt_cache(make_prompt_cache(model)):
            raise UsageError("--draft-model: this model's cache cannot be cut back, which drafting needs")
    room = room_of(runtime, caching.prefill_step_size, scores_in_memory=not mx.metal.is_available())
    auditor = None if args.audit is None else Auditor(model, args.audit)
    store = None
    if args.prompt_store is not None and draft is None:
        store = open_prompt_store(
            runtime, args.prompt_store, caching, adapter=args.adapter_path, most_bytes=args.prompt_store_bytes,
            say=log.warning,
        )  # fmt: skip
    kept = {"kept_sequences": args.prompt_cache_size, "kept_bytes": args.prompt_cache_bytes}
    return Loaded(model, tokenizer, draft, caching, room, auditor, store=store, **kept)


def public_name(model: str) -> str:
    """Returns what clients call a model: a hub repository's name, a folder's own name, never where it lies."""
    path = Path(model).expanduser()
    if model.startswith(("/", ".", "~")) or path.exists() or len(path.parts) > 2:
        return path.resolve().name
    return model
