"""The files of a store to be, in the order in which they are written, each a list of byte ranges of the source."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from moe_mlx.store import digest, header
from moe_mlx.store.checkpoint import INDEX
from moe_mlx.store.given import Given
from moe_mlx.store.layout import expert_file, expert_header, layer_directory
from moe_mlx.store.locate import Layout, Located
from moe_mlx.store.parts import ExpertLayout
from moe_mlx.store.spec import ByteRange
from moe_mlx_convert.arrangement import PLAIN, Arrangement
from moe_mlx_convert.checkpoint import Checkpoint

#: Largest shard of resident weights, as mlx-lm writes them.
MAX_SHARD_NBYTES = 5_000_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """One file to write.

    Attributes:
        name: Path relative to the store.
        nbytes: Exact length.
        prefix: Makes the bytes that come first and are not in the source.
        ranges: Makes the list of source ranges that follow.
        digests_prefix: Whether the digest covers the prefix too: not for an expert, whose digest is of its data.
        layout: How the ranges, the tensors of an expert, are rearranged; None where they follow each other.
        expected: Digest that the source's bytes must have, where it is known.
    """

    name: str
    nbytes: int
    prefix: Callable[[], bytes]
    ranges: Callable[[], Sequence[ByteRange]]
    digests_prefix: bool
    layout: ExpertLayout | None = None
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All files of a store but its manifest.

    Attributes:
        layouts: How experts lie in their files, by layer.
        experts: By layer, by expert.
        resident: Shards of weights that are not routed experts.
        files: The shards' index and files copied verbatim.
        resident_nbytes: Bytes of the resident tensors.
        left_out: Tensors that mlx-lm drops while it loads, and their bytes.
        method: `bytes`; `arrays` where ranges name tensors that mlx-lm stacks instead of files; `upgrade` of a store;
            `rounding` where experts are given fewer bits.
        given: The bits of each expert, where they are given some.
    """

    layouts: tuple[ExpertLayout, ...]
    experts: tuple[tuple[Target, ...], ...]
    resident: tuple[Target, ...]
    files: tuple[Target, ...]
    resident_nbytes: int
    left_out: Mapping[str, int]
    method: str = "bytes"
    given: Given | None = None

    def targets(self) -> Iterator[Target]:
        """Yields every file: small ones first, so that a store that cannot be used fails early."""
        yield from self.files
        yield from self.resident
        for layer in self.experts:
            yield from layer

    @property
    def nbytes(self) -> int:
        """Bytes of every file."""
        return sum(target.nbytes for target in self.targets())

    def mark(self) -> str:
        """Returns a digest of what is planned; a half-written store of another plan cannot be resumed."""
        return digest.of([f"{t.name} {t.nbytes}{_how(t.layout)}\n".encode() for t in self.targets()])


def make_plan(
    checkpoint: Checkpoint,
    layout: Layout,
    tensors: Mapping[str, Located],
    left_out: Set[str],
    method: str = "bytes",
    arrangement: Arrangement = PLAIN,
    *,
    by_shard: bool = False,
) -> Plan:
    """Plans the store of a checkpoint.

    Args:
        checkpoint: What is to be converted.
        layout: Where its experts are among `tensors`.
        tensors: The checkpoint's own, or what mlx-lm makes of them.
        left_out: Names of those that no model takes.
        method: As in `Plan`.
        arrangement: How experts are to lie in their files.
        by_shard: Whether resident weights of one shard of the source make one shard of the store.

    Raises:
        UnsupportedModelError: They cannot be cut like that.
    """
    layouts = arrangement.layouts([located.layer for located in layout.layers], checkpoint.config, checkpoint.root)
    residents = [t for name, t in tensors.items() if name not in layout.expert_names and name not in left_out]
    dropped = {name: tensors[name].entry.nbytes for name in sorted(left_out)}
    resident, index = resident_shards(residents, by_shard=by_shard)
    files = [generated(INDEX, index), *(verbatim(path) for path in checkpoint.verbatim)]
    experts = tuple(expert_targets(how, located.ranges) for how, located in zip(layouts, layout.layers, strict=True))
    return Plan(layouts, experts, resident, tuple(files), sum(t.entry.nbytes for t in residents), dropped, method)


def resident_shards(tensors: Sequence[Located], *, by_shard: bool = False) -> tuple[tuple[Target, ...], bytes]:
    """Groups tensors into shards of at most MAX_SHARD_NBYTES, in the order of the source.

    Args:
        tensors: Resident weights.
        by_shard: Whether no shard holds tensors of two shards of the source.

    Returns:
        The shards and the bytes of their index.
    """
    groups: list[list[Located]] = [[]]
    nbytes = 0
    for tensor in tensors:
        other = by_shard and groups[-1] and groups[-1][-1].shard != tensor.shard
        if groups[-1] and (other or nbytes + tensor.entry.nbytes > MAX_SHARD_NBYTES):
            groups.append([])
            nbytes = 0
        groups[-1].append(tensor)
        nbytes += tensor.entry.nbytes
    targets: list[Target] = []
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups):
        name = "model.safetensors" if len(groups) == 1 else f"model-{i + 1:05}-of-{len(groups):05}.safetensors"
        targets.append(_shard(name, group))
        weight_map |= {t.entry.name: name for t in group}
    total = sum(t.entry.nbytes for t in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": {k: weight_map[k] for k in sorted(weight_map)}}
    return tuple(targets), (json.dumps(index, indent=1) + "\n").encode()


def expert_targets(
    layout: ExpertLayout,
    ranges: Callable[[int], Sequence[ByteRange]],
    expected: Sequence[str | None] = (),
    layout_for: Callable[[int], ExpertLayout] | None = None,
) -> tuple[Target, ...]:
    """Returns the files of a layer's experts.

    Args:
        layout: How each lies in its file.
        ranges: Makes the list of an expert's tensors in the source.
        expected: Digest of each one's tensors, where they are known.
        layout_for: How an expert lies in its file, where they differ.
    """
    known = expected or (None,) * layout.layer.experts
    each = [layout_for(expert) if layout_for else layout for expert in range(layout.layer.experts)]
    return tuple(
        Target(
            name=f"{layer_directory(layout.layer)}/{expert_file(expert)}",
            nbytes=len(expert_header(each[expert], 0)) + each[expert].nbytes,
            prefix=partial(expert_header, each[expert], expert),
            ranges=partial(ranges, expert),
            digests_prefix=False,
            layout=each[expert] if each[expert].rearranged else None,
            expected=known[expert],
        )
        for expert in range(layout.layer.experts)
    )


def _how(layout: ExpertLayout | None) -> str:
    """Returns what tells two arrangements of the same files apart."""
    if layout is None:
        return ""
    few = f" {layout.bits}" if layout.narrow else ""
    return f" {layout.row_blocks} {sorted(layout.halves.items())}{few}"


def _shard(name: str, tensors: Sequence[Located]) -> Target:
    entries, begin = [], 0
    for tensor in tensors:
        e = tensor.entry
        entries.append(header.Entry(e.name, e.dtype, e.shape, begin, begin + e.nbytes))
        begin += e.nbytes
    prefix = header.encode(entries, {"format": "mlx"}, name)
    ranges = tuple(ByteRange(t.shard, t.offset, t.entry.nbytes) for t in tensors)
    return Target(name, len(prefix) + begin, lambda: prefix, lambda: ranges, True)


def generated(name: str, contents: bytes) -> Target:
    """Returns a file whose bytes are there already."""
    return Target(name, len(contents), lambda: contents, lambda: (), True)


def verbatim(path: Path, expected: str | None = None) -> Target:
    """Returns a file that is copied as it is; `expected` is its digest, where it is known."""
    nbytes = path.stat().st_size
    return Target(path.name, nbytes, lambda: b"", lambda: (ByteRange(path, 0, nbytes),), True, expected=expected)
