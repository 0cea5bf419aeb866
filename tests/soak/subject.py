"""A tiny model to be tried: checkpoint, store, mlx-lm's own answers, every expert's bytes; and how to break a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlx_lm

from moe_mlx.store import open_source
from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint

QUESTIONS = ("what is a fox", "tell me more", "a longer question, with many words in it, " * 6, "why")


@dataclass(frozen=True)
class Subject:
    """What a trial starts from, and what it compares with.

    Attributes:
        expected: mlx-lm's greedy answers to `QUESTIONS`.
        experts: Each expert's bytes, by MoE ordinal and expert.
    """

    family: str
    checkpoint: Path
    store: Path
    expected: dict[str, tuple[int, ...]]
    experts: dict[tuple[int, int], bytes]

    @classmethod
    def make(cls, family: str, folder: Path, *, quantized: bool = True) -> Subject:
        """Makes the checkpoint and the store in `folder`."""
        checkpoint, store = folder / "checkpoint", folder / "store"
        tiny_checkpoint(family, checkpoint, quantization=AFFINE4 if quantized else None)
        convert(checkpoint, store)
        model, tokenizer = mlx_lm.load(str(checkpoint))
        expected = {}
        for text in QUESTIONS:
            prompt = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
            answer = mlx_lm.stream_generate(model, tokenizer, prompt, max_tokens=10)
            expected[text] = tuple(piece.token for piece in answer)
        experts = {}
        source = open_source(store)
        for layer in source.layers:
            for expert in range(layer.experts):
                parts = [memoryview(bytearray(spec.nbytes)) for spec in layer.tensors]
                source.read_into(layer.index, expert, parts)
                experts[layer.index, expert] = b"".join(parts)
        source.close()
        return cls(family, checkpoint, store, expected, experts)


@contextmanager
def broken(path: Path, fault: str, other: Path) -> Iterator[None]:
    """Breaks one file, and mends it afterwards.

    Args:
        path: The file.
        fault: "flip", "truncate", "unlink", "folder", or "swap": the content of `other`.
        other: Another file.
    """
    data = path.read_bytes()
    if fault == "truncate":
        os.truncate(path, len(data) // 2)
    elif fault == "unlink":
        path.unlink()
    elif fault == "folder":
        path.unlink()
        path.mkdir()
    elif fault == "swap":
        path.write_bytes(other.read_bytes())
    else:
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 0x55]) + data[-2:])
    try:
        yield
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
