"""Joins the primitive to the layers: one handle per layer on the table, log and bank that Python owns.

What orders a rewrite of a slot against the work that still reads it: a layer's step in the graph has the layer's
previous output among its inputs, so MLX runs it after that output on whatever streams and devices the two are, and
whether or not they are evaluated together. Python changes a table only after `LayerCache.claim`, which waits for that
same output.
"""

from __future__ import annotations

import atexit
import weakref
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx

from moe_mlx.errors import ExpertReadError
from moe_mlx.eviction import AgedLeastFrequentlyUsed
from moe_mlx.layer import LayerCache
from moe_mlx.records import EventLog
from moe_mlx.routing.cache_prior import CachePrior
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.max_rank import Cumulative, MaxRank
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.store import ExpertSource

PolicyNumbers = tuple[int, float, int, int, float]
#: Steps of a layer that may be queued or unevaluated at once; its log holds `EventLog.ROWS`.
MOST_AHEAD = EventLog.ROWS // 4

_RUNTIMES: weakref.WeakValueDictionary[int, NativeDecode] = weakref.WeakValueDictionary()
_REGISTERED: list[ModuleType] = []


def numbers_of(policy: RoutingPolicy) -> PolicyNumbers | None:
    """Returns a policy as the primitive takes it; None for one that is only known to Python."""
    if isinstance(policy, Exact):
        return 0, 0.0, 0, 0, 0.0
    if isinstance(policy, CachePrior):
        return 1, policy.lam, policy.top_j, 0, 0.0
    if isinstance(policy, MaxRank):
        return 2, 0.0, policy.top_j, policy.max_rank, 0.0
    if isinstance(policy, Cumulative):
        return 3, 0.0, policy.top_j, 0, policy.mass
    return None


def _address(memory: array[Any]) -> int:
    return memory.buffer_info()[0]


class NativeDecode:
    """The primitive for one model: its reader and, between failure and delivery, its fault."""

    def __init__(self, module: ModuleType, source: ExpertSource, readers: int) -> None:
        self.module, self.source = module, source
        self.reader = module.Reader(readers, "" if source.in_place else str(source.root))
        self.runtime = module.Runtime()
        self.layers: list[NativeLayer] = []
        _RUNTIMES[self.runtime.id] = self
        if module not in _REGISTERED:
            _REGISTERED.append(module)
            module.on_fault(_deliver)

    @property
    def failed(self) -> bool:
        """Whether a step ran into an error that nothing has raised yet."""
        return bool(self.runtime.failed)

    def check(self) -> None:
        """Raises what a step in the graph ran into, where no evaluation has raised it yet.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        if self.failed:
            raise self.recover()

    def recover(self) -> ExpertReadError:
        """Lets the steps behind a failed one pass by, forgets them, and returns the failure as an exception."""
        layer, expert, path, reason = self.runtime.first()
        self.runtime.drain()
        self.runtime.delivered()
        self.reader.close()  # files may be put right before the next step: it opens them anew
        for native in self.layers:
            native.cache.bank.abandon()
        return ExpertReadError(layer, expert, Path(path), reason)

    def release(self, cache: LayerCache) -> None:
        """Lets go of a layer's bank and table, which are about to be replaced."""
        for native in self.layers:
            if native.cache is cache:
                native.release()
        self.runtime.drain()

    def close(self) -> None:
        """Lets go of every layer and closes the files; after the streams are drained."""
        for native in self.layers:
            native.release()
        self.runtime.drain()
        self.reader.close()


class NativeLayer:
    """One layer's steps in the graph."""

    def __init__(self, decode: NativeDecode, cache: LayerCache) -> None:
        self.decode, self.cache = decode, cache
        self._handle: Any = None
        self._of: tuple[Any, Any] = (None, None)
        self._policy: RoutingPolicy | None = None
        self._numbers: PolicyNumbers | None = None
        self._ahead = 0
        decode.layers.append(self)

    @property
    def ready(self) -> bool:
        """Whether this layer's next decode step can run in the graph: its policy is one the primitive knows."""
        if self._policy is not self.cache.policy:
            self._policy, self._numbers = self.cache.policy, numbers_of(self.cache.policy)
        return self._numbers is not None

    def step(self, exact: mx.array, **router: mx.array | None) -> tuple[mx.array, mx.array]:
        """Adds one decode step to the graph.

        Args:
            exact: The model's own choice, one row.
            **router: `scores`, `raw`, `weigh` and `weights` as for `CappedSwitch.select`; none of them where the
                choice stands as it is.

        Returns:
            The chosen experts and their slots, shaped as `exact`.

        Raises:
            ExpertReadError: an earlier step failed and nothing has raised that yet.
        """
        cache = self.cache
        self.decode.check()
        if not self.ready or self._numbers is None:
            raise ValueError(f"{cache.policy.name} does not run in the graph")
        if cache.spans:
            cache.claim()
            mx.eval(cache.spans)
            cache.take_spans()
        if (self._of[0] is not cache.table) or (self._of[1] is not cache.bank):
            cache.claim()
            self._bind()
        if self._ahead - cache.log.written[0] >= MOST_AHEAD:
            cache.claim()
            self._ahead = cache.log.written[0]
        self._ahead = max(self._ahead, cache.log.written[0]) + 1
        chosen, slots = self._handle.decode(cache.counter.step, self._numbers, exact, **router, after=cache.bank.queued)
        return chosen, slots

    def release(self) -> None:
        """Lets go of the bank and the table."""
        self._handle, self._of = None, (None, None)

    def _bind(self) -> None:
        cache, source = self.cache, self.decode.source
        spec, table, log = cache.spec, cache.table, cache.log
        files: dict[Path, int] = {}
        ranges, digests = array("q"), bytearray()
        for expert in range(spec.experts):
            for run in source.byte_ranges(spec.index, expert):
                ranges.extend((files.setdefault(run.path, len(files)), run.offset, run.nbytes))
            if source.verify and (digest := source.digest(spec.index, expert)) is not None:
                digests += bytes.fromhex(digest)
        whole_file = -1 if source.in_place else source.byte_ranges(spec.index, 0)[0].offset + spec.expert_nbytes
        lfu = table.eviction if isinstance(table.eviction, AgedLeastFrequentlyUsed) else None
        shared = (
            table.slot_of, table.owner, table.used, table.heat, table.whole, table.reals, table.uses, table.reads,
            table.last, table.distances,
        )  # fmt: skip
        logged = (log.rows, log.reals, log.written)
        self._handle = self.decode.module.Layer(
            runtime=self.decode.runtime,
            reader=self.decode.reader,
            layer=spec.layer,
            tensors=[tensor.name for tensor in spec.tensors],
            tensor_nbytes=[tensor.nbytes for tensor in spec.tensors],
            paths=[str(path) for path in files],
            file_nbytes=whole_file,
            ranges=ranges.tobytes(),
            digests=bytes(digests),
            experts=table.experts,
            slots=table.slots,
            table=[_address(memory) for memory in shared],
            lfu=lfu is not None,
            growth=1.0 if lfu is None else lfu.growth,
            log=[_address(memory) for memory in logged],
            banks=cache.bank.arrays,
            stall_seconds=cache.pool.stall_seconds,
            keep=(shared, logged),
        )
        self._of = (table, cache.bank)


def _deliver(runtime_id: int) -> BaseException:
    decode = _RUNTIMES.get(runtime_id)
    return RuntimeError("an expert could not be read") if decode is None else decode.recover()


@atexit.register
def _drain_all() -> None:
    """Lets queued steps finish while the memory they write to is still there."""
    for decode in list(_RUNTIMES.values()):
        decode.runtime.drain()
