"""Low slots of one layer: the high bits of experts, moved to and from whole slots in memory, or read on their own.

What moves are bits of the store: a whole expert that was demoted and promoted again has every bit it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from mlx import nn
from numpy.typing import NDArray

from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.coarse_product import coarse_switch
from moe_mlx.expert_cache.residency import COARSE, PART_WORDS, Placement
from moe_mlx.expert_cache.slots import SlotBank
from moe_mlx.store import ExpertLayer, codes
from moe_mlx.store.access import scratch_buffer
from moe_mlx.store.parts import ALL, COARSE_FORMS, HIGH, LOW, ExpertLayout, Halves, Placed
from moe_mlx.store.parts import COARSE as HIGH_BITS_ONLY

Bytes = NDArray[np.uint8]


class PartsSource(Protocol):
    """What reads parts of experts; `moe_mlx.store.store.StoreSource` is one."""

    def read_parts(self, index: int, expert: int, first: int, last: int, buffer: memoryview) -> int:
        """Fills a buffer with the parts `first` to `last` of an expert, checked, and returns its bytes."""


def cut_in(layout: ExpertLayout, form: str) -> dict[int, Halves]:
    """Returns how the weights that have fewer bits in a coarse form are cut, by the tensor's number."""
    coarse = layout.coarse_tensors(form)
    return {i: cut for i, cut in layout.halves.items() if coarse[i] != layout.layer.tensors[i]}


def bank_of(
    spec: ExpertLayer, slots: int, low: int, inner: nn.Module, layout: ExpertLayout | None, form: str = HIGH_BITS_ONLY
) -> SlotBank:
    """Allocates a layer's slots and puts their arrays where its switch has its tensors.

    Args:
        spec: The layer.
        slots: Whole slots.
        low: Low slots; 0 where `layout` is None.
        inner: mlx-lm's switch.
        layout: How the layer's experts lie in their files.
        form: Which prefix of a file a coarse expert is.
    """
    bank = SlotBank(spec.tensors, slots)
    if low:
        assert layout is not None
        bank.low = LowSlots(layout, bank, low, inner, form)
    bank.install(inner)
    return bank


class Codes(Protocol):
    """Cuts and joins the codes of a weight, uint8 arrays of one axis."""

    def high_of(self, cut: Halves, whole: Bytes, high: Bytes) -> None:
        """Fills `high` with the high half of every code."""

    def lift(self, cut: Halves, high: Bytes, whole: Bytes) -> None:
        """Fills `whole` with codes of those high halves whose low ones are 0."""

    def complete(self, cut: Halves, low: Bytes, whole: Bytes) -> None:
        """Puts low halves where there are zeros."""


class NumpyCodes:
    """`Codes` without the extension."""

    def high_of(self, cut: Halves, whole: Bytes, high: Bytes) -> None:
        """See `Codes.high_of`."""
        codes.split(cut, whole[None], high[None], np.empty((1, whole.size * cut.low_bits // cut.bits), np.uint8))

    def lift(self, cut: Halves, high: Bytes, whole: Bytes) -> None:
        """See `Codes.lift`."""
        codes.join(cut, high[None], np.zeros((1, whole.size * cut.low_bits // cut.bits), np.uint8), whole[None])

    def complete(self, cut: Halves, low: Bytes, whole: Bytes) -> None:
        """See `Codes.complete`."""
        added = np.empty_like(whole)
        codes.join(cut, np.zeros((1, whole.size * cut.high_bits // cut.bits), np.uint8), low[None], added[None])
        whole |= added


class LowSlots:
    """The low slots beside a layer's whole ones.

    Attributes:
        layout: How the layer's experts lie in their files.
        form: Which prefix of the file a coarse expert is.
        cut: How the weights that have fewer bits here are cut, by the tensor's number.
        bank: The slots' arrays.
        switch: mlx-lm's switch over them.
        codes: What cuts and joins.
    """

    codes: Codes = NumpyCodes()

    def __init__(
        self, layout: ExpertLayout, whole: SlotBank, slots: int, inner: nn.Module, form: str = HIGH_BITS_ONLY
    ) -> None:
        self.layout, self.form, self._whole = layout, form, whole
        self.cut = cut_in(layout, form)
        self.bank = SlotBank(layout.coarse_tensors(form), slots)
        names = dict.fromkeys(tensor.name.partition(".")[0] for tensor in layout.layer.tensors)
        self.switch = coarse_switch(inner, names, {layout.layer.tensors[i].name: cut for i, cut in self.cut.items()})
        self.bank.install(self.switch)

    @property
    def rest_nbytes(self) -> int:
        """Bytes that a coarse expert lacks."""
        return self.layout.layer.expert_nbytes - self.layout.coarse_nbytes(self.form)

    def _low(self, slot: int) -> list[Bytes]:
        return _bytes(self.bank.buffers(slot - self._whole.slots))

    def demote(self, slot: int, low: int) -> None:
        """See `residency.Mover`."""
        for to, come in zip(self._low(low), self._high_bits(slot), strict=True):
            to[:] = come

    def lift(self, low: int, slot: int) -> None:
        """See `residency.Mover`."""
        self._lift(self._low(low), slot)

    def swap(self, slot: int, low: int) -> None:
        """See `residency.Mover`."""
        going, coming = self._high_bits(slot), self._low(low)
        self._lift(coming, slot)
        for to, come in zip(coming, going, strict=True):
            to[:] = come

    def _high_bits(self, slot: int) -> list[Bytes]:
        """Returns a copy of a whole slot's expert as a low slot holds it."""
        found = []
        for i, whole in enumerate(_bytes(self._whole.buffers(slot))):
            if (cut := self.cut.get(i)) is None:
                found.append(whole.copy())
                continue
            high = np.empty(whole.size * cut.high_bits // cut.bits, np.uint8)
            self.codes.high_of(cut, whole, high)
            found.append(high)
        return found

    def _lift(self, low: Sequence[Bytes], slot: int) -> None:
        for i, (come, to) in enumerate(zip(low, _bytes(self._whole.buffers(slot)), strict=True)):
            if (cut := self.cut.get(i)) is None:
                to[:] = come
            else:
                self.codes.lift(cut, come, to)

    def read(self, source: PartsSource, index: int, placement: Placement) -> int:
        """Reads the part of an expert that a placement names into its slot, in a reader's thread.

        Returns:
            Bytes read.

        Raises:
            ExpertReadError: the part could not be read or its digest is another; names it.
        """
        prefix = COARSE_FORMS[self.form]
        first, last = (0, prefix) if placement.part == COARSE else (prefix, len(self.layout.parts))
        given = scratch_buffer(sum(part.nbytes for part in self.layout.parts[first:last]))
        try:
            source.read_parts(index, placement.expert, first, last, given)
        except ExpertReadError as error:
            if error.reason.startswith("part "):  # which of the store's parts its digest says
                raise
            reason = PART_WORDS[placement.part] + error.reason
            raise ExpertReadError(error.layer, error.expert, error.path, reason) from error
        data = np.frombuffer(given, np.uint8)
        placed = (one for run in self.layout.runs(first, last) for one in run.placed)
        planes = _planes(placed, data)
        if placement.part == COARSE:
            self._fill(planes, self._low(placement.slot))
        else:
            self._complete(planes, _bytes(self._whole.buffers(placement.slot)))
        return data.size

    def _fill(self, planes: Mapping[tuple[int, str], Bytes], buffers: Sequence[Bytes]) -> None:
        for i, to in enumerate(buffers):
            if (i, LOW) in planes:  # a weight that this form keeps whole
                self.codes.lift(self.layout.halves[i], planes[i, HIGH], to)
                self.codes.complete(self.layout.halves[i], planes[i, LOW], to)
            else:
                to[:] = planes[i, HIGH if i in self.cut else ALL]

    def _complete(self, planes: Mapping[tuple[int, str], Bytes], buffers: Sequence[Bytes]) -> None:
        """Puts the low bits where `lift` has left room for them."""
        for (i, _), low in planes.items():
            self.codes.complete(self.layout.halves[i], low, buffers[i])


def _bytes(buffers: Iterable[memoryview]) -> list[Bytes]:
    return [np.frombuffer(buffer, np.uint8) for buffer in buffers]


def _planes(placed: Iterable[Placed], data: Bytes) -> dict[tuple[int, str], Bytes]:
    """Returns each tensor, or half of one, in one piece: the blocks of its rows come in their order."""
    found: dict[tuple[int, str], list[Bytes]] = {}
    for one in placed:
        found.setdefault((one.tensor, one.half), []).append(data[one.at : one.at + one.nbytes])
    return {key: pieces[0] if len(pieces) == 1 else np.concatenate(pieces) for key, pieces in found.items()}
