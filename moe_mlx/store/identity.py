"""Tells one model from another, the same for a checkpoint and the store made from it."""

from __future__ import annotations

import json

from moe_mlx.store import digest
from moe_mlx.store.source import ExpertSource


def identity_of(source: ExpertSource) -> str:
    """Returns a digest (32 hexadecimal digits) of the config, the experts' layout and two experts' bytes.

    Raises:
        ExpertReadError: the first or the last expert could not be read.
    """
    parts: list[bytes | memoryview] = [json.dumps(dict(source.config), sort_keys=True, default=repr).encode()]
    parts += [f"{layer.path} {layer.experts} {layer.top_k} {layer.expert_nbytes}".encode() for layer in source.layers]
    parts += [bytes(bits) for bits in source.bits]  # two experts may be those of the model that has all of them
    last = source.layers[-1]
    for index, expert in ((0, 0), (last.index, last.experts - 1)):
        buffers = [memoryview(bytearray(tensor.nbytes)) for tensor in source.layers[index].tensors]
        source.read_into(index, expert, buffers)
        parts.extend(buffers)
    return digest.of(parts)
