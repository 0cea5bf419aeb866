"""Finds the routed experts among a checkpoint's tensors, and where each one's bytes lie."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, UnsupportedModelError
from moe_mlx.store.families import family_of
from moe_mlx.store.family import PARTS, Family, expert_count, first_layer, layer_count, top_k
from moe_mlx.store.header import Entry
from moe_mlx.store.schemes import scheme_of
from moe_mlx.store.spec import MOST_EXPERTS, ByteRange, ExpertLayer, TensorSpec

#: Spellings of experts that mlx-lm stacks, splits or renames while it loads.
_STACKED_AT_LOAD = re.compile(
    r"(experts|moe\.mlp)\.\d+\.|experts\.(gate_up_proj|down_proj|mlp)|\.moe\.(gate|up|down)_proj|"
    r"switch_mlp\.gate_up_proj|(input|output)_linear"
)


class StackedAtLoadError(UnsupportedModelError):
    """A checkpoint whose experts become rows of stacked tensors only while mlx-lm loads it."""

    def __init__(self, where: Path, example: str, scheme: str = "") -> None:
        self.where, self.example = where, example
        packed = f" It says before it writes whether mlx-lm unpacks {scheme} for this family." if scheme else ""
        super().__init__(
            f"{where}: the experts are stacked only while loading (such as {example!r}), so they cannot be read in "
            f"place. Convert the checkpoint first: moe-mlx convert --model SRC --mlx-path DST.{packed}"
        )


@dataclass(frozen=True, slots=True)
class Located:
    """A tensor and the shard that holds it; `offset` counts from the start of the shard, in bytes."""

    entry: Entry
    shard: Path
    offset: int


@dataclass(frozen=True, slots=True)
class Placed:
    """One tensor of every expert of a layer: rows of one stacked tensor, or a tensor per expert (`rows`)."""

    spec: TensorSpec
    rows: tuple[Located, ...]
    stacked: bool

    def at(self, expert: int) -> ByteRange:
        """Returns where the tensor of one expert lies."""
        if self.stacked:
            row = self.rows[0]
            return ByteRange(row.shard, row.offset + expert * self.spec.nbytes, self.spec.nbytes)
        row = self.rows[expert]
        return ByteRange(row.shard, row.offset, self.spec.nbytes)


@dataclass(frozen=True, slots=True)
class LocatedLayer:
    """A layer of experts and the places of its tensors, in the order of `layer.tensors`."""

    layer: ExpertLayer
    places: tuple[Placed, ...]

    def ranges(self, expert: int) -> tuple[ByteRange, ...]:
        """Returns one range per tensor of an expert."""
        return tuple(place.at(expert) for place in self.places)


@dataclass(frozen=True, slots=True)
class Layout:
    """All routed experts of a checkpoint, and the names of the tensors that hold them."""

    layers: tuple[LocatedLayer, ...]
    expert_names: frozenset[str]


def locate(tensors: Mapping[str, Located], config: Mapping[str, Any], where: Path) -> Layout:
    """Finds every routed expert from names, shapes and the config alone.

    Args:
        tensors: Every tensor of the checkpoint, by name.
        config: Its `config.json`.
        where: The checkpoint, named in errors.

    Raises:
        UnsupportedModelError: A dense model, an unknown family.
        StackedAtLoadError: Experts that are not laid out yet as mlx-lm runs them.
        StoreCorruptError: Tensors that contradict each other or the config.
    """
    family = family_of(config, where)
    experts = expert_count(config, family, where)
    start, limit = first_layer(config, family), layer_count(config, family)
    found: dict[int, dict[str, dict[int, Located]]] = {}
    names: set[str] = set()
    pattern = _pattern(family)
    for name, tensor in tensors.items():
        match = pattern.fullmatch(name)
        if match is None or int(match["layer"]) < start or (limit is not None and int(match["layer"]) >= limit):
            continue
        row = int(match["row"]) if family.unstacked else 0
        own = match["factor"] or f"{match['proj']}.{match['part']}"
        found.setdefault(int(match["layer"]), {}).setdefault(own, {})[row] = tensor
        names.add(name)
    named = scheme_of(config)
    scheme = "" if named is None else named[1]
    unstacked = None if family.unstacked else _example(tensors, names, family)
    if experts and unstacked is not None:
        raise StackedAtLoadError(where, unstacked, scheme)
    if not found or not experts:
        example = _example(tensors, names, family) if experts else None
        if example is not None:
            raise StackedAtLoadError(where, example, scheme)
        raise UnsupportedModelError(
            f"{where}: no routed experts: {config.get('model_type')!r} with {family.experts} = {experts or None}, and "
            f"no tensor named like {family.containers[0]}.0.{family.switch}.{family.projections[0]}.weight. "
            "A dense model needs no expert cache; run it with mlx_lm."
        )
    layers = []
    for index, number in enumerate(sorted(found)):
        path = f"{family.containers[0]}.{number}.{family.switch}"
        places = _layer(found[number], family, experts, path, where)
        k = top_k(config, family, number, where)
        if not 1 <= k <= experts:
            raise StoreCorruptError(f"{where}: config.json chooses {k} of {experts} experts ({path}); fix the config.")
        layer = ExpertLayer(index, number, path, experts, k, tuple(place.spec for place in places))
        if not layer.expert_nbytes or experts > MOST_EXPERTS:
            raise StoreCorruptError(
                f"{where}: {path} has {experts} experts of {layer.expert_nbytes} bytes; fetch the checkpoint again."
            )
        layers.append(LocatedLayer(layer, places))
    return Layout(tuple(layers), frozenset(names))


def _pattern(family: Family) -> re.Pattern[str]:
    containers = "|".join(re.escape(c) for c in family.containers)
    row = r"(?P<row>\d+)\." if family.unstacked else ""
    return re.compile(
        rf"(?:{containers})\.(?P<layer>\d{{1,6}})\.{re.escape(family.switch)}\.{row}"
        rf"(?:(?P<proj>{'|'.join(family.projections)})\.(?P<part>{'|'.join(PARTS)})"
        rf"|(?P<factor>{'|'.join(family.factors) or '(?!)'}))",
        re.ASCII,
    )


def _example(tensors: Mapping[str, Located], names: set[str], family: Family) -> str | None:
    """Returns a tensor that mlx-lm would stack while loading; extra prediction layers do not count."""
    at_layer = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.\d+\.")
    for name in tensors:
        if name in names or "mtp" in name or not at_layer.search(name):
            continue
        if _STACKED_AT_LOAD.search(name) and "shared" not in name:
            return name
    return None


def _layer(
    parts: Mapping[str, Mapping[int, Located]], family: Family, experts: int, path: str, where: Path
) -> tuple[Placed, ...]:
    """Checks one layer's tensors against each other and puts them in the order of an expert's file."""
    placed = []
    for proj in family.projections:
        present = [part for part in PARTS if f"{proj}.{part}" in parts]
        if "weight" not in present:
            raise StoreCorruptError(f"{where}: {path}.{proj}.weight is missing; a shard is lost or incomplete.")
        weight = next(iter(parts[f"{proj}.weight"].values()))
        if ("scales" in present) != (weight.entry.dtype == "U32"):
            raise StoreCorruptError(
                f"{where}: {path}.{proj}.weight is {weight.entry.dtype} and its scales are "
                f"{'there' if 'scales' in present else 'missing'}; fetch the checkpoint again."
            )
        for part in present:
            name = f"{proj}.{part}"
            rows = parts[name]
            placed.append(
                _unstacked(name, rows, experts, path) if family.unstacked else _stacked(name, rows[0], experts, path)
            )
    for name in family.factors:
        if name not in parts:
            raise StoreCorruptError(f"{where}: {path}.{name} is missing; a shard is lost or incomplete.")
        placed.append(_stacked(name, parts[name][0], experts, path))
    return tuple(placed)


def _stacked(name: str, row: Located, experts: int, path: str) -> Placed:
    shape = row.entry.shape
    if not shape or shape[0] != experts:
        raise StoreCorruptError(
            f"{row.shard}: {path}.{name} has shape {list(shape)}, but config.json declares {experts} experts."
        )
    return Placed(TensorSpec(name, row.entry.dtype, shape[1:]), (row,), True)


def _unstacked(name: str, rows: Mapping[int, Located], experts: int, path: str) -> Placed:
    # Counted before they are compared: a set of all the experts that a config may declare is a set of any size.
    missing = next((e for e in range(min(experts, len(rows) + 1)) if e not in rows), None)
    if missing is not None or len(rows) != experts:
        raise StoreCorruptError(
            f"{path}.{experts if missing is None else missing}.{name}: config.json declares {experts} experts, "
            f"{len(rows)} are there."
        )
    entries = {(rows[e].entry.dtype, rows[e].entry.shape) for e in range(experts)}
    if len(entries) > 1:
        raise StoreCorruptError(f"{rows[0].shard}: {path}.*.{name} differs between experts: {sorted(entries)}.")
    dtype, shape = entries.pop()
    return Placed(TensorSpec(name, dtype, shape), tuple(rows[e] for e in range(experts)), False)
