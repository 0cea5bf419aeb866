"""Computes a layer's experts beside the expert cache: absent ones are read into slots of their own, nothing is moved.

For looks at what exact routing would have said: residency, clocks, ranges and counters stay as they are.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.slots import SlotBank
from moe_mlx.loading.runtime import Runtime
from moe_mlx.store import TensorSpec
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.threads import granted, started_pool

#: Threads that read for a look.
_READERS = 4


class Scratch:
    """Slots of its own, in the memory plan from creation to `close`.

    Attributes:
        nbytes: Bytes of the slots: top-k for each layout of experts there is in the model.
        bytes_read: Read into them so far; in no other count.
    """

    def __init__(self, runtime: Runtime, what: str) -> None:
        """Makes the slots.

        Args:
            runtime: The model's.
            what: Whose slots they are, for the error.

        Raises:
            DoesNotFitError: the plan has no room for them.
        """
        self.runtime, self.bytes_read = runtime, 0
        slots: dict[tuple[TensorSpec, ...], int] = {}
        for layer in runtime.layers:
            slots[layer.spec.tensors] = max(slots.get(layer.spec.tensors, 0), layer.spec.top_k)
        self.nbytes = sum(sum(spec.nbytes for spec in specs) * count for specs, count in slots.items())
        runtime.sizing.reserve(self.nbytes, f"{what} needs {show_bytes(self.nbytes)} of scratch slots")
        try:
            self._banks = {specs: SlotBank(specs, count) for specs, count in slots.items()}
            self._threads = started_pool(granted(_READERS), "moe-mlx-look")
        except BaseException:
            runtime.sizing.give_back(self.nbytes)
            raise

    def close(self) -> None:
        """Gives the slots back; again does nothing."""
        if self._banks:
            self._banks.clear()
            self._threads.shutdown()
            self.runtime.sizing.give_back(self.nbytes)

    def compute(self, layer: LayerCache, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Computes one layer's routed experts for any number of rows; arguments as for `CappedSwitch`.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        if layer.full:
            stored = mx.where(indices < layer.table.experts, indices, 0)  # longcat's identity experts have no weights
            whole: mx.array = layer.inner(x, stored, *args, **kwargs)
            return whole
        chosen = np.array(indices).astype(np.int64)
        layer.claim()
        needed = layer.stored(np.unique(chosen).tolist())
        flat = np.where(chosen < layer.table.experts, chosen, needed[0] if needed else 0).reshape(-1)
        wide, k = x.reshape(-1, x.shape[-1]), chosen.shape[-1]
        outputs: list[mx.array] = []
        places: list[NDArray[np.intp]] = []

        def run(slot_of: dict[int, int]) -> None:
            slots = np.full(layer.table.experts, -1, dtype=np.int64)
            slots[list(slot_of)] = list(slot_of.values())
            place = np.flatnonzero(slots[flat] >= 0)
            rows = mx.array((place // k).astype(np.uint32))
            y = layer.inner(wide[rows], mx.array(slots[flat[place]].astype(np.uint32))[:, None], *args, **kwargs)
            mx.eval(y)  # the slots are filled anew by the next wave
            outputs.append(y)
            places.append(place)

        table = layer.table
        if present := {expert: table.slot_of[expert] for expert in needed if table.whole(expert)}:
            run(present)
        absent = [expert for expert in needed if expert not in present]
        bank = self._banks[layer.spec.tensors]
        try:
            for start in range(0, len(absent), bank.slots):
                wave = absent[start : start + bank.slots]
                self._read(layer, wave, bank)
                bank.install(layer.inner)
                run({expert: place for place, expert in enumerate(wave)})
        finally:
            layer.bank.install(layer.inner)
        order = np.argsort(np.concatenate(places))
        y = mx.concatenate(outputs, axis=0)[mx.array(order.astype(np.uint32))]
        return y.reshape(*chosen.shape, y.shape[-1])

    def _read(self, layer: LayerCache, experts: list[int], bank: SlotBank) -> None:
        source, index = self.runtime.source, layer.spec.index
        reads = [
            self._threads.submit(source.read_into, index, expert, bank.buffers(place))
            for place, expert in enumerate(experts)
        ]
        failure: BaseException | None = None
        for read in reads:  # all of them, so that none is still writing where another failed
            failure = failure or read.exception()
        if failure is not None:
            raise failure
        self.bytes_read += sum(read.result() for read in reads)
