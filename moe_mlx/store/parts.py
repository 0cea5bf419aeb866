"""How one expert's bytes lie in its file: parts, each cut into row blocks; a whole expert is their rearrangement.

Version 1 of a store is one part of one block: the tensors one behind the other. Version 2 may keep the high bits of
every code before the low ones (`nested`), so that a short read gives an expert at fewer bits, and may cut every tensor
into blocks of its output rows, so that a machine reads its rows alone. Version 3 may keep an expert whose codes are all
small with fewer bits each (`narrow`): a shorter file, which is widened as it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from moe_mlx.store.spec import ExpertLayer, TensorSpec

WHOLE, SCALES, HIGH_PART, DOWN_PART, LOW_PART = "whole", "scales", "high", "down", "low"
ALL, HIGH, LOW, NARROW = "all", "high", "low", "narrow"
#: Bits of a code in memory where experts of a layer have different ones, and what each may have in its file.
HELD_BITS = 4
WIDTHS = (2, 3, 4)
#: Coarse forms: every weight at its high bits; the same with the last projection's weight (`down_proj`) whole.
COARSE, COARSE_DOWN = "2", "2-down4"
#: How many parts of a nested expert's file make a coarse form: a prefix.
COARSE_FORMS: Mapping[str, int] = {COARSE: 2, COARSE_DOWN: 3}
#: Bits of a code to the bits of its high half. MLX runs a weight of either.
HIGH_BITS: Mapping[int, int] = {4: 2, 6: 4, 8: 4}
#: More blocks than machines that share a model; bounds what a stranger's manifest makes of an expert.
MOST_ROW_BLOCKS = 64
#: Blocks where nobody says how many.
ROW_BLOCKS = 16
MOST_TENSORS = 64
_WORD_BITS = 32


class Halves(NamedTuple):
    """How the codes of a weight are cut: `bits` of one code, `high_bits` of them in the high half."""

    bits: int
    high_bits: int

    @property
    def low_bits(self) -> int:
        """Bits of a code in the low half."""
        return self.bits - self.high_bits


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one tensor, or of one half of it, in one block.

    Attributes:
        tensor: Its number in `layer.tensors`.
        half: ALL, HIGH, LOW or NARROW.
        rows: Output rows of one block; 0 for a tensor without axes.
        nbytes: Bytes in one block.
    """

    tensor: int
    half: str
    rows: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an expert's file: `blocks` blocks of the same pieces, `block_nbytes` bytes each.

    Attributes:
        name: WHOLE, or SCALES, HIGH_PART, DOWN_PART, LOW_PART.
        offset: From the start of the data.
    """

    name: str
    offset: int
    blocks: int
    block_nbytes: int
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return self.blocks * self.block_nbytes


class Placed(NamedTuple):
    """Where rows of a tensor lie among bytes that were read.

    Attributes:
        tensor: Its number in `layer.tensors`.
        half: ALL, HIGH, LOW or NARROW.
        row: The first one, of the whole tensor.
        rows: How many; 0 for a tensor without axes.
        at: From the start of everything that is read, in bytes.
        nbytes: How many bytes.
    """

    tensor: int
    half: str
    row: int
    rows: int
    at: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """One contiguous read: `offset` from the start of the data, and what lies in it."""

    offset: int
    nbytes: int
    placed: tuple[Placed, ...]


@dataclass(frozen=True)
class ExpertLayout:
    """The parts of every expert of a layer; made by `layout_of`.

    Attributes:
        layer: The layer; its tensors are those of a whole expert.
        halves: How weights are cut, by their number in `layer.tensors`; empty where nothing is nested.
        row_blocks: Blocks of each part.
        parts: In the order of the file.
        bits: Of a code in the file, of the weights in `narrow`.
        narrow: Those weights, by their number in `layer.tensors`; empty where all have the bits of the model.
    """

    layer: ExpertLayer
    halves: Mapping[int, Halves] = field(hash=False)
    row_blocks: int
    parts: tuple[Part, ...]
    bits: int = HELD_BITS
    narrow: frozenset[int] = frozenset()

    @property
    def nbytes(self) -> int:
        """Bytes of one expert in its file; as `layer.expert_nbytes` but where weights are narrow."""
        return sum(part.nbytes for part in self.parts)

    @property
    def nested(self) -> bool:
        """Whether a prefix of the file is a coarse expert."""
        return bool(self.halves)

    @property
    def rearranged(self) -> bool:
        """Whether the data are anything but the tensors one behind the other."""
        return self.nested or self.row_blocks > 1 or bool(self.narrow)

    @property
    def digests(self) -> int:
        """How many digests cover one expert: one a part and block."""
        return len(self.parts) * self.row_blocks

    @cached_property
    def part_nbytes(self) -> tuple[int, ...]:
        """Bytes under each digest, in the order of the file."""
        return tuple(part.block_nbytes for part in self.parts for _ in range(part.blocks))

    @cached_property
    def placed(self) -> Mapping[int, tuple[Placed, ...]]:
        """Where each tensor's rows lie in the file, by its number; halves by rows each."""
        found: dict[int, list[Placed]] = {i: [] for i in range(len(self.layer.tensors))}
        for placed in self.runs()[0].placed:
            found[placed.tensor].append(placed)
        return {tensor: tuple(places) for tensor, places in found.items()}

    def shape_of(self, piece: Piece) -> tuple[int, ...]:
        """Returns the shape of a piece, of which safetensors headers and banks speak alike."""
        spec = self.layer.tensors[piece.tensor]
        if piece.half == NARROW:
            spec = narrow_of(spec, self.bits)
        elif piece.half != ALL:
            spec = half_of(spec, self.halves[piece.tensor], piece.half)
        return (piece.rows, *spec.shape[1:]) if spec.shape else ()

    def coarse_nbytes(self, form: str = COARSE) -> int:
        """Returns the bytes of the prefix that is an expert in a coarse form.

        Raises:
            ValueError: There is no such form, or nothing is nested.
        """
        return sum(part.nbytes for part in self._prefix(form))

    def coarse_tensors(self, form: str = COARSE) -> tuple[TensorSpec, ...]:
        """Returns the tensors of a coarse expert: those of a whole one, in their order, weights with fewer bits.

        Raises:
            ValueError: There is no such form, or nothing is nested.
        """
        low = {piece.tensor for part in self._prefix(form) for piece in part.pieces if piece.half == LOW}
        return tuple(
            half_of(spec, self.halves[i], HIGH) if i in self.halves and i not in low else spec
            for i, spec in enumerate(self.layer.tensors)
        )

    def _prefix(self, form: str) -> tuple[Part, ...]:
        if not self.nested or form not in COARSE_FORMS:
            raise ValueError(f"{self.layer.path}: no coarse form {form!r}")
        return self.parts[: COARSE_FORMS[form]]

    def runs(self, first: int = 0, last: int | None = None, blocks: range | None = None) -> tuple[Run, ...]:
        """Returns what is to be read for some parts and row blocks: one run where all blocks are, else one a part.

        Args:
            first: The first part.
            last: The one after the last part; by default all.
            blocks: Consecutive row blocks; by default all.

        Raises:
            ValueError: There are no such parts or blocks.
        """
        parts, chosen = self.parts[first:last], blocks if blocks is not None else range(self.row_blocks)
        if not parts or not chosen or chosen.step != 1 or not 0 <= chosen.start < chosen.stop <= self.row_blocks:
            raise ValueError(f"{self.layer.path}: no parts {first}:{last}, row blocks {blocks}")
        runs, at = [], 0
        for part in parts:
            placed = []
            for block in chosen:
                for piece in part.pieces:
                    row = block * piece.rows
                    placed.append(Placed(piece.tensor, piece.half, row, piece.rows, at, piece.nbytes))
                    at += piece.nbytes
            offset = part.offset + chosen.start * part.block_nbytes
            runs.append(Run(offset, len(chosen) * part.block_nbytes, tuple(placed)))
        if len(chosen) < self.row_blocks:
            return tuple(runs)
        return (Run(runs[0].offset, at, tuple(placed for run in runs for placed in run.placed)),)


def version_of(layouts: Sequence[ExpertLayout], *, fewer: bool = False) -> int | None:
    """Returns the least version of a store that has such experts; None of a checkpoint, which has no layouts.

    Args:
        layouts: Of each layer, at the bits that its experts have in memory.
        fewer: Whether it says the bits of each expert.
    """
    return None if not layouts else 3 if fewer else 2 if any(layout.rearranged for layout in layouts) else 1


def arranged(layouts: Sequence[ExpertLayout], spent: str = "") -> str:
    """Returns what versions 2 and 3 add to a store, to be put behind its name: "" of version 1.

    Args:
        layouts: As of `version_of`.
        spent: Bits of its experts in a few words, where it says the bits of each.
    """
    version = version_of(layouts, fewer=bool(spent))
    if version in (None, 1):
        return ""
    words = [spent] if spent else []
    words += ["high bits first"] if any(layout.nested for layout in layouts) else []
    words += [f"{n} row blocks" for n in sorted({layout.row_blocks for layout in layouts}) if n > 1]
    return f" of version {version} ({', '.join(words)})"


def half_of(spec: TensorSpec, halves: Halves, half: str) -> TensorSpec:
    """Returns a half of a weight as a tensor: MLX's own packing of codes with that many bits."""
    bits = halves.high_bits if half == HIGH else halves.low_bits
    return TensorSpec(spec.name, spec.dtype, (*spec.shape[:-1], spec.shape[-1] * bits // halves.bits))


def held_of(bits: Sequence[int]) -> int:
    """Returns the bits that a layer's weights have in memory: those of its experts, or `HELD_BITS` where they differ.

    Args:
        bits: Of each expert, in its file.
    """
    return bits[0] if len(set(bits)) == 1 else HELD_BITS


def narrow_of(spec: TensorSpec, bits: int) -> TensorSpec:
    """Returns a weight of `HELD_BITS` as its file has it: MLX's own packing of codes of fewer bits."""
    return TensorSpec(spec.name, spec.dtype, (*spec.shape[:-1], spec.shape[-1] * bits // HELD_BITS))


def layout_of(
    layer: ExpertLayer, halves: Mapping[int, Halves] | None = None, row_blocks: int = 1, bits: int = HELD_BITS
) -> ExpertLayout:
    """Returns how the experts of a layer lie in their files.

    Args:
        layer: The layer.
        halves: The weights to cut, by their number in `layer.tensors`; none for an expert that is not nested.
        row_blocks: Blocks of output rows of every tensor.
        bits: One of `WIDTHS`: of each code of every weight, in the file.

    Raises:
        ValueError: The tensors cannot be cut like that; the message names the first one.
    """
    halves = dict(halves or {})
    for i, cut in halves.items():
        _check_halves(layer, i, cut)
    if not 1 <= row_blocks <= MOST_ROW_BLOCKS:
        raise ValueError(f"{row_blocks} row blocks; there are 1 to {MOST_ROW_BLOCKS}")
    if len(layer.tensors) > MOST_TENSORS and (halves or row_blocks > 1):
        raise ValueError(f"an expert of {len(layer.tensors)} tensors, which is beyond {MOST_TENSORS}")
    for spec in layer.tensors if row_blocks > 1 else ():
        if not spec.shape or spec.shape[0] % row_blocks:
            raise ValueError(f"{spec.name} has the shape {list(spec.shape)}, not rows for {row_blocks} blocks")
    narrow = _narrow(layer, halves, bits)
    parts, offset = [], 0
    for name, members in _members(layer, halves):
        pieces = tuple(
            _piece(narrow_of(layer.tensors[i], bits), i, NARROW, None, row_blocks)
            if i in narrow
            else _piece(layer.tensors[i], i, half, halves.get(i), row_blocks)
            for i, half in members
        )
        part = Part(name, offset, row_blocks, sum(piece.nbytes for piece in pieces), pieces)
        offset += part.nbytes
        parts.append(part)
    return ExpertLayout(layer, halves, row_blocks, tuple(parts), bits, narrow)


def _members(layer: ExpertLayer, halves: Mapping[int, Halves]) -> Iterable[tuple[str, list[tuple[int, str]]]]:
    """Yields each part's name and its tensors' numbers and halves."""
    every = range(len(layer.tensors))
    if not halves:
        yield WHOLE, [(i, ALL) for i in every]
        return
    cut = [i for i in every if i in halves]
    yield SCALES, [(i, ALL) for i in every if i not in halves]
    yield HIGH_PART, [(i, HIGH) for i in cut]
    yield DOWN_PART, [(cut[-1], LOW)]
    yield LOW_PART, [(i, LOW) for i in cut[:-1]]


def _piece(spec: TensorSpec, tensor: int, half: str, cut: Halves | None, row_blocks: int) -> Piece:
    nbytes = spec.nbytes if cut is None or half in (ALL, NARROW) else half_of(spec, cut, half).nbytes
    return Piece(tensor, half, spec.shape[0] // row_blocks if spec.shape else 0, nbytes // row_blocks)


def _narrow(layer: ExpertLayer, halves: Mapping[int, Halves], bits: int) -> frozenset[int]:
    """Returns the weights that have fewer bits in the file.

    Raises:
        ValueError: They cannot have them; the message names the first one.
    """
    if bits not in WIDTHS:
        raise ValueError(f"codes of {bits} bits; there are {WIDTHS[0]} to {WIDTHS[-1]}")
    if bits == HELD_BITS:
        return frozenset()
    if halves:
        raise ValueError("weights of fewer bits are not cut into halves")
    found = frozenset(i for i, spec in enumerate(layer.tensors) if spec.name.endswith(".weight"))
    if not found:
        raise ValueError("an expert without weights")
    for spec in (layer.tensors[i] for i in sorted(found)):
        # 32 codes fill whole words at any width
        if spec.dtype != "U32" or len(spec.shape) != 2 or not spec.shape[1] or spec.shape[1] % HELD_BITS:
            raise ValueError(f"{spec.name} is no packed weight of {HELD_BITS} bits: {spec.dtype} {list(spec.shape)}")
    return found


def _check_halves(layer: ExpertLayer, tensor: int, cut: Halves) -> None:
    if not 0 <= tensor < len(layer.tensors):
        raise ValueError(f"no tensor {tensor} to cut")
    spec = layer.tensors[tensor]
    if HIGH_BITS.get(cut.bits) != cut.high_bits:
        raise ValueError(f"{spec.name}: codes of {cut.bits} bits do not split at {cut.high_bits}")
    if spec.dtype != "U32" or len(spec.shape) != 2 or not spec.name.endswith(".weight"):
        raise ValueError(f"{spec.name} is no packed weight: {spec.dtype} {list(spec.shape)}")
    inputs = spec.shape[1] * _WORD_BITS // cut.bits
    if inputs % _WORD_BITS or inputs * cut.bits != spec.shape[1] * _WORD_BITS:
        raise ValueError(f"{spec.name} has rows of {spec.shape[1]} words, which no codes of {cut.bits} bits fill")
