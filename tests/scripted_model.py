"""A tiny qwen3_moe that says a fixed list of pieces, whatever it is asked: for what depends on an answer's words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

from moe_mlx.store.demo import demo_path
from tests.checkpoints import QWEN3_MOE, make_checkpoint

OPENS, ENDS = "<|assistant|>", "<|end|>"


def scripted_model(
    folder: Path, pieces: Sequence[str], template: str, *, also: Sequence[str] = (), **config: Any
) -> Path:
    """Makes a checkpoint in which every layer adds nothing, so that the head reads the last token alone.

    Args:
        folder: Where to write.
        pieces: What it says after `OPENS`, each made one token of its own; none may come twice.
        template: Its chat template, whose prompts end in `OPENS`.
        also: Tokens that it knows besides.
        config: Entries of config.json to change.
    """
    tokenizer = json.loads((demo_path() / "tokenizer.json").read_text())
    known = {token["content"]: token["id"] for token in tokenizer["added_tokens"]} | tokenizer["model"]["vocab"]
    for piece in (*pieces, *also):
        if piece not in known:
            known[piece] = max(known.values()) + 1
            row = {"id": known[piece], "content": piece, "single_word": False, "lstrip": False, "rstrip": False}
            tokenizer["added_tokens"].append({**row, "normalized": False, "special": False})
    words = (max(known.values()) + 64) // 64 * 64
    chain = [known[OPENS], *(known[piece] for piece in pieces), known[ENDS]]

    def fill(model: nn.Module) -> None:
        shapes = {name: array.shape for name, array in tree_flatten(model.parameters())}
        weights = {
            name: mx.zeros(shape) if "o_proj" in name or "down_proj" in name else mx.random.normal(shape) * 0.1
            for name, shape in shapes.items()
        }
        rows = mx.random.normal(shapes["model.embed_tokens.weight"])
        rows = rows / mx.linalg.norm(rows, axis=-1, keepdims=True)
        head = mx.zeros(shapes["lm_head.weight"])
        for said, following in pairwise(chain):
            head[following] = head[following] + rows[said] * 50
        weights |= {"model.embed_tokens.weight": rows, "lm_head.weight": head, "model.norm.weight": mx.ones(256)}
        model.update(tree_unflatten(list(weights.items())))

    overrides: dict[str, Any] = {
        "vocab_size": words,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "head_dim": 64,
        "eos_token_id": known[ENDS],
        "max_position_embeddings": 4096,
        **config,
    }
    make_checkpoint(folder, QWEN3_MOE, fill=fill, **overrides)
    for name in ("chat_template.jinja", "special_tokens_map.json"):  # of the tokenizer that `make_checkpoint` brings
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    settings = json.loads((demo_path() / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": template}))
    return folder
