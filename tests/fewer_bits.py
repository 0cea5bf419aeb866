"""Experts of fewer bits without a measure, and the ordinary checkpoint of the same weights, for mlx-lm to run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from moe_mlx.bits.rounding import Rounding, config_with
from moe_mlx.store import ExpertSource, open_source
from moe_mlx.store.given import Given
from moe_mlx.store.nesting import quantization_of
from moe_mlx.store.parts import held_of
from moe_mlx_convert import Summary, give_bits
from moe_mlx_convert.fewer_bits import Giver

GROUP = 64


class Drawn:
    """Gives each expert bits by lot; the first of a layer has 4, the second 3, the third 2.

    Args:
        source: The model.
        seed: Of the lot.
        same: Layers whose experts have all the same, by MoE ordinal.
    """

    asked, calibration = 3.0, ""

    def __init__(self, source: ExpertSource, seed: int = 0, same: dict[int, int] | None = None) -> None:
        self.same = same or {}
        self.layers = tuple(Rounding(source, layer.index) for layer in source.layers)
        self.source, self.asks, self._chance = source, 0, random.Random(seed)

    def config(self, held: Sequence[int]) -> dict[str, Any] | None:
        return config_with(self.source.config, self.layers, held)

    def give(self) -> Given:
        self.asks += 1
        bits = tuple(
            (self.same[index],) * one.given.experts
            if index in self.same
            else (4, 3, 2, *(self._chance.choice((2, 3, 4)) for _ in range(one.given.experts)))[: one.given.experts]
            for index, one in enumerate(self.layers)
        )
        return Given(self.asked, 3.0, bits, (None,) * len(bits), "")


def drawn(checkpoint: Path, store: Path, *, same: dict[int, int] | None = None, **options: Any) -> Summary:
    """Makes a store of experts whose bits are drawn; `same` as of `Drawn`."""

    def giver(source: ExpertSource) -> Giver:
        return Drawn(source, same=same)

    return give_bits(str(checkpoint), store, giver, **options)


def drawn_store(checkpoint: Path, store: Path, **options: Any) -> Path:
    """Makes one and returns its folder."""
    drawn(checkpoint, store, **options)
    return store


def ordinary(checkpoint: Path, store: Path, folder: Path) -> Path:
    """Makes an MLX checkpoint whose experts are rounded to the bits that a store says, as mlx-lm packs them."""
    shutil.copytree(checkpoint, folder)
    weights: dict[str, mx.array] = {}
    for shard in folder.glob("model*.safetensors"):
        weights |= mx.load(str(shard))
        shard.unlink()
    with open_source(checkpoint) as source, open_source(store) as stored:
        for layer, bits in zip(source.layers, stored.bits, strict=True):
            for name in {spec.name.rpartition(".")[0] for spec in layer.tensors if spec.name.endswith(".weight")}:
                path = f"{layer.path}.{name}"
                weights |= _rounded(weights, path, bits, quantization_of(source.config, path))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(store / "config.json", folder / "config.json")
    return folder


def _rounded(weights: dict[str, mx.array], path: str, bits: tuple[int, ...], said: Any) -> dict[str, mx.array]:
    parts: list[tuple[mx.array, ...]] = []
    quantised, group = f"{path}.scales" in weights, said.get("group_size", GROUP)
    for expert, few in enumerate(bits):
        own = [weights[f"{path}.{part}"][expert] for part in ("weight", "scales", "biases")[: 3 if quantised else 1]]
        if quantised and said["bits"] == few == 4:
            parts.append(tuple(own))
            continue
        floats = mx.dequantize(*own, group, said["bits"]) if quantised else own[0]
        codes, scales, biases = mx.quantize(floats, group, few)
        in_memory = held_of(bits)
        held = codes if few == in_memory else mx.array(packed_as_four(np.array(codes), few))
        same = mx.dequantize(held, scales, biases, group, in_memory), mx.dequantize(codes, scales, biases, group, few)
        assert mx.array_equal(*same), "codes of four bits do not say the same weights"
        parts.append((held, scales, biases))
    names = ("weight", "scales", "biases")
    return {f"{path}.{part}": mx.stack(column) for part, column in zip(names, zip(*parts, strict=True), strict=True)}


def packed_as_four(codes: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Packs codes `[O, words]` of some bits as codes of four, the plainest way."""
    each = np.unpackbits(codes.view(np.uint8), axis=1, bitorder="little").reshape(len(codes), -1, bits)
    padded = np.concatenate([each, np.zeros((*each.shape[:2], 4 - bits), np.uint8)], axis=2)
    return np.packbits(padded.reshape(len(codes), -1), axis=1, bitorder="little").view(np.uint32)
