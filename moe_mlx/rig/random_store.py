"""Random-weight checkpoints of a given shape, for measuring: valid for mlx-lm, written shard by shard.

Weights are random codes in 4-bit affine groups, scaled so that activations stay finite; the text such a model makes
is noise and its routing is nearly uniform, which is the worst case for an expert cache. Memory stays flat: one tensor
is made in pieces of a few megabytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx.errors import UsageError
from moe_mlx.store import header
from moe_mlx.store.header import Entry

GROUP_SIZE, BITS = 64, 4
_PIECE = 1 << 22  # elements


@dataclass(frozen=True, slots=True)
class Shape:
    """A qwen3_moe model to make up."""

    layers: int
    experts: int
    top_k: int
    hidden: int
    expert_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    def check(self) -> None:
        """Raises UsageError for what cannot be built."""
        for name in ("hidden", "expert_width"):
            if getattr(self, name) % GROUP_SIZE:
                raise UsageError(f"{name} is {getattr(self, name)}: give a multiple of {GROUP_SIZE}")
        if min(self.layers, self.experts, self.top_k, self.heads, self.kv_heads, self.head_dim) < 1:
            raise UsageError("every number of the shape has to be 1 or more")
        if self.top_k > self.experts:
            raise UsageError(f"top_k {self.top_k} of {self.experts} experts")
        if self.vocabulary < 128 or self.heads % self.kv_heads or (self.heads * self.head_dim) % GROUP_SIZE:
            raise UsageError(
                f"a vocabulary of at least 128, heads divisible by kv_heads, heads x head_dim by {GROUP_SIZE}"
            )


SHAPES = {
    "tiny": Shape(2, 8, 2, 64, 64, 2, 1, 32, 128),
    "overhead": Shape(12, 64, 8, 1024, 384, 16, 4, 64, 8192),
    "qwen3-30b-a3b": Shape(48, 128, 8, 2048, 768, 32, 4, 128, 151936),
}


def scaled(shape: Shape, scale: float) -> Shape:
    """Returns the shape with its layers scaled; each stays as it is, so sizes and times a layer do too.

    Raises:
        UsageError: not a number above 0.
    """
    if not 0 < scale <= 100:
        raise UsageError(f"--scale {scale}: give a number above 0, such as 0.25")
    return replace(shape, layers=max(1, round(shape.layers * scale)))


def config_of(shape: Shape) -> dict[str, Any]:
    """Returns the config.json of a shape."""
    quantization = {"group_size": GROUP_SIZE, "bits": BITS, "mode": "affine"}
    return {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.expert_width,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "num_experts": shape.experts,
        "num_experts_per_tok": shape.top_k,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": shape.expert_width,
        "rms_norm_eps": 1e-6,
        "vocab_size": shape.vocabulary,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "max_position_embeddings": 32768,
        "norm_topk_prob": True,
        "torch_dtype": "float32",
        "quantization": quantization,
        "quantization_config": quantization,
    }


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[NDArray[Any]]]

    @property
    def nbytes(self) -> int:
        return 4 * math.prod(self.shape)


def _counts(total: int) -> Iterator[int]:
    for start in range(0, total, _PIECE):
        yield min(_PIECE, total - start)


def _linear(name: str, seed: int, *shape: int) -> list[_Tensor]:
    """A 4-bit linear `[..., out, in]`: random codes, scales around the size that keeps outputs near one."""
    *leading, width = shape
    codes, groups = (*leading, width * BITS // 32), (*leading, width // GROUP_SIZE)
    typical = 1.0 / (4.6 * math.sqrt(width))  # codes 0 to 15 have a standard deviation of 4.6

    def weight() -> Iterator[NDArray[Any]]:
        rng = np.random.default_rng([seed, 0])
        for count in _counts(math.prod(codes)):
            yield rng.integers(0, 1 << 32, count, dtype=np.uint32)

    def scales(factor: float) -> Iterator[NDArray[Any]]:
        rng = np.random.default_rng([seed, 1])
        for count in _counts(math.prod(groups)):
            yield (rng.random(count, dtype=np.float32) + np.float32(0.5)) * np.float32(typical * factor)

    return [
        _Tensor(f"{name}.weight", "U32", codes, weight),
        _Tensor(f"{name}.scales", "F32", groups, lambda: scales(1.0)),
        _Tensor(f"{name}.biases", "F32", groups, lambda: scales(-7.5)),
    ]


def _dense(name: str, seed: int, *shape: int) -> _Tensor:
    spread = 1.0 / math.sqrt(shape[-1])

    def pieces() -> Iterator[NDArray[Any]]:
        rng = np.random.default_rng(seed)
        for count in _counts(math.prod(shape)):
            yield rng.standard_normal(count, dtype=np.float32) * np.float32(spread)

    return _Tensor(name, "F32", shape, pieces)


def _ones(name: str, size: int) -> _Tensor:
    return _Tensor(name, "F32", (size,), lambda: iter([np.ones(size, dtype=np.float32)]))


def _layer(shape: Shape, number: int) -> list[_Tensor]:
    at, seed = f"model.layers.{number}", 1000 + 100 * number
    hidden, heads = shape.hidden, shape.heads * shape.head_dim
    kv = shape.kv_heads * shape.head_dim
    switch = f"{at}.mlp.switch_mlp"
    return [
        *_linear(f"{at}.self_attn.q_proj", seed, heads, hidden),
        *_linear(f"{at}.self_attn.k_proj", seed + 1, kv, hidden),
        *_linear(f"{at}.self_attn.v_proj", seed + 2, kv, hidden),
        *_linear(f"{at}.self_attn.o_proj", seed + 3, hidden, heads),
        _ones(f"{at}.self_attn.q_norm.weight", shape.head_dim),
        _ones(f"{at}.self_attn.k_norm.weight", shape.head_dim),
        _ones(f"{at}.input_layernorm.weight", hidden),
        _ones(f"{at}.post_attention_layernorm.weight", hidden),
        _dense(f"{at}.mlp.gate.weight", seed + 4, shape.experts, hidden),
        *_linear(f"{switch}.gate_proj", seed + 5, shape.experts, shape.expert_width, hidden),
        *_linear(f"{switch}.up_proj", seed + 6, shape.experts, shape.expert_width, hidden),
        *_linear(f"{switch}.down_proj", seed + 7, shape.experts, hidden, shape.expert_width),
    ]


def make_checkpoint(shape: Shape, folder: Path, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Writes a checkpoint: a shard of embeddings and head, then one a layer.

    Args:
        shape: What to make.
        folder: Where; must not exist yet.
        progress: Called with shards done and in all.

    Returns:
        Bytes of all weights.

    Raises:
        UsageError: the shape cannot be built, or the folder is there.
    """
    shape.check()
    if folder.exists():
        raise UsageError(f"{folder} is there already: name a new folder")
    folder.mkdir(parents=True)
    ends = [
        *_linear("model.embed_tokens", 1, shape.vocabulary, shape.hidden),
        _ones("model.norm.weight", shape.hidden),
        *_linear("lm_head", 2, shape.vocabulary, shape.hidden),
    ]
    shards = shape.layers + 1
    index: dict[str, str] = {}
    total = 0
    for number in range(shards):
        tensors = ends if number == 0 else _layer(shape, number - 1)
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        total += _write(folder / name, tensors)
        index |= dict.fromkeys((tensor.name for tensor in tensors), name)
        if progress is not None:
            progress(number + 1, shards)
    described = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(described, indent=1))
    _tokenizer(folder, shape.vocabulary)
    (folder / "config.json").write_text(json.dumps(config_of(shape), indent=1))
    return total


def _write(path: Path, tensors: list[_Tensor]) -> int:
    entries, begin = [], 0
    for tensor in tensors:
        entries.append(Entry(tensor.name, tensor.dtype, tensor.shape, begin, begin + tensor.nbytes))
        begin += tensor.nbytes
    with path.open("wb") as file:
        file.write(header.encode(entries, {"format": "mlx"}, path))
        for tensor in tensors:
            for piece in tensor.pieces():
                file.write(piece.tobytes())
        file.flush()
        os.fsync(file.fileno())
    return begin


def _tokenizer(folder: Path, vocabulary: int) -> None:
    """Saves a tokenizer of characters, filled up with words that nobody writes, and a trivial chat template."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is not there: it is not needed
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    known = [*special, "\n", *map(chr, range(32, 127))]
    words = {word: number for number, word in enumerate(known)}
    words |= {f"<{number}>": number for number in range(len(known), vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=special[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        additional_special_tokens=special[3:],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    fast.save_pretrained(folder)
