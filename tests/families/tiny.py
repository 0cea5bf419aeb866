"""Tiny random checkpoints of every MoE family, made by mlx-lm's own classes and saved the way mlx-lm saves."""

import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import _get_classes, quantize_model, save_config, save_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.families.configs import UNQUANTISED, config

AFFINE4 = {"group_size": 32, "bits": 4, "mode": "affine"}

_SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
_CHARACTERS = ["\n", *map(chr, range(32, 127))]
_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_checkpoint(family: str, folder: Path, *, quantization: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """Write a tiny random float32 checkpoint that ``mlx_lm.load`` accepts.

    Args:
        family: A row of ``tests.families.configs``.
        folder: Where to write; made if missing.
        quantization: Arguments of ``mlx_lm.utils.quantize_model``, such as ``AFFINE4``; none keeps float32.
        seed: Of the weights.

    Returns:
        The folder.
    """
    if quantization is not None and family in UNQUANTISED:
        pytest.skip(f"{family} takes no quantisation but its own")
    folder.mkdir(parents=True, exist_ok=True)
    settings = config(family)
    model_class, args_class = _get_classes(settings)
    mx.random.seed(seed)
    model = model_class(args_class.from_dict(config(family)))
    _randomize(model)
    if quantization is not None:
        model, settings = quantize_model(model, settings, **{"group_size": None, "bits": None, **quantization})
    save_model(folder, model, donate_model=True)
    save_config(settings, folder / "config.json")
    tiny_tokenizer(folder)
    return folder


def tiny_tokenizer(folder: Path) -> None:
    """Save a character tokenizer with a trivial chat template."""
    words = {word: number for number, word in enumerate(_SPECIAL + _CHARACTERS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=_SPECIAL[3:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)


def _randomize(model: nn.Module) -> None:
    """Give every constant parameter (routers, correction biases, norms) a random value, in float32."""
    fresh = []
    for name, old in tree_flatten(model.parameters()):
        if not mx.issubdtype(old.dtype, mx.floating):
            continue
        new = old.astype(mx.float32)
        if new.size > 1 and bool(mx.all(new == new.reshape(-1)[0])):
            scale = 2 / math.sqrt(new.shape[-1]) if new.ndim > 1 else 0.05
            new = new + scale * mx.random.normal(new.shape)
        fresh.append((name, new))
    model.update(tree_unflatten(fresh))
    mx.eval(model.parameters())
