"""What models on disk hold, to be compared: tensors as MLX reads them, experts as our readers do, files as they are."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from moe_mlx.store import ExpertSource


def tensors(folder: Path) -> dict[str, mx.array]:
    found: dict[str, mx.array] = {}
    for shard in folder.glob("model*.safetensors"):
        found |= mx.load(str(shard))
    return found


def raw(array: mx.array) -> bytes:
    return np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes()


def expert(source: ExpertSource, index: int, number: int) -> list[bytes]:
    buffers = [memoryview(bytearray(t.nbytes)) for t in source.layers[index].tensors]
    assert source.read_into(index, number, buffers) == source.layers[index].expert_nbytes
    return [bytes(b) for b in buffers]


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
