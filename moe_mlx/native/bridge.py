"""Joins the primitive to the layers: one handle per layer on the table, log and bank that Python owns.

What orders a rewrite of a slot against the work that still reads it: a layer's step in the graph has the layer's
previous output among its inputs, so MLX runs it after that output on whatever streams and devices the two are, and
whether or not they are evaluated together. Python changes a table only after `LayerCache.claim`, which waits for that
same output.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx

from moe_mlx.counts.event_log import EventLog
from moe_mlx.counts.reads import ReadLog
from moe_mlx.errors import ExpertReadError
from moe_mlx.expert_cache.graph import GraphStep
from moe_mlx.expert_cache.lateness import LateLayer
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.residency import Eviction
from moe_mlx.expert_cache.steps import StepCounter
from moe_mlx.native.binding import NativeCodes, address_of, bind, eviction_numbers, policy_numbers
from moe_mlx.planning.prefetch import Prefetch
from moe_mlx.routing.policy import RoutingPolicy
from moe_mlx.store import ExpertSource
from moe_mlx.system.threads import granted

#: Steps of a layer that may be queued or unevaluated at once; its log holds `EventLog.ROWS`.
MOST_QUEUED = EventLog.ROWS // 4
#: Calls of several rows whose score ranges may wait to be counted; only a lossy policy's single rows need them.
MOST_SPANS = 64

#: How long closing waits for prefetching that nobody needs any more; what hangs on a disk is left to itself.
EXIT_SECONDS = 1.0

#: Set to "apart", fetches run on a CPU stream of their own where the model's is one too: what a GPU's fences are like.
STREAM_VARIABLE = "MOE_MLX_FETCH_STREAM"

_DECODES: weakref.WeakValueDictionary[int, NativeDecode] = weakref.WeakValueDictionary()
_REGISTERED: list[ModuleType] = []


class NativeDecode:
    """The primitive for one model: its reader and, between failure and delivery, its fault."""

    def __init__(self, module: ModuleType, source: ExpertSource, readers: int) -> None:
        self.module, self.source = module, source
        self.read_log, access = ReadLog(), source.access
        self.readers = granted(readers)
        self.reader = module.Reader(
            threads=self.readers,
            root="" if source.in_place else str(source.root),
            way=access.way,
            memory=access.memory,
            block=access.block,
            bounce=access.bounce_nbytes,
            log=address_of(self.read_log.counts),
            keep=self.read_log.counts,
        )
        self.streams = module.ModelStreams()
        self.streams.apart = os.environ.get(STREAM_VARIABLE) == "apart"
        self.layers: list[NativeLayer] = []
        self.prefetcher: Any = None
        self.untold: ExpertReadError | None = None  # raised where it ends nobody's turn: the next call raises it again
        _DECODES[self.streams.id] = self
        if module not in _REGISTERED:
            _REGISTERED.append(module)
            module.on_fault(_deliver)

    def join(self, caches: Sequence[LayerCache]) -> None:
        """Takes the model's layers, in order."""
        self.layers = [NativeLayer(self, cache) for cache in caches]
        for cache in caches:
            cache.cut_by(NativeCodes(self.module))

    def prefetch(self, how: Prefetch) -> int:
        """Lets every layer's step prefetch for the next layer, from its next step on.

        Returns:
            How many layers are not prefetched for though they could use it: their router is not known.
        """
        threads = granted(how.threads)
        self.prefetcher = self.module.Prefetcher(self.reader, threads, how.buffers, how.buffer_nbytes)
        unknown = 0
        for native, next_layer in pairwise(self.layers):
            native.release()
            next_layer.release()
            if next_layer.cache.router is None:
                unknown += not next_layer.cache.full
            else:
                native.next_layer = next_layer
                next_layer.guesses = how.guesses(next_layer.cache.spec)
        return unknown

    def drop_guesses(self) -> None:
        """Drops what was staged for steps that will not come."""
        for native in self.layers:
            native.drop_guess()

    @property
    def failed(self) -> bool:
        """Whether a step ran into an error that nothing has raised yet."""
        return bool(self.streams.failed)

    def check_token(self, step: int) -> None:
        """Raises what a step ran into, where a token is about to be taken from it or from a later one.

        An evaluation may return before MLX has stored the error of the stream that it waited for.

        Args:
            step: Number of the model call that the token comes from.

        Raises:
            ExpertReadError: that call, or one before it, failed.
        """
        if self.failed and self.streams.failed_step <= step:
            raise self.recover()

    def failed_by(self, after: mx.array) -> mx.array:
        """Returns whether a fetch has failed by the time that an array is computed: int32 `[1]`, 1 or 0, in the graph.

        What is queued behind a failed fetch goes on with wrong slots, and other machines would take it for a result.
        """
        found: mx.array = self.streams.failed_by(after)
        return found

    def crossings(self, outputs: Sequence[mx.array]) -> tuple[int, int]:
        """Returns what would cross between the model's stream and the fetches' to compute `outputs`.

        Args:
            outputs: Arrays that are not evaluated yet, built while `streams.apart`, or beside a GPU.

        Returns:
            Arrays that fetches take from the model's stream, and operations of the model's that wait for a fetch.
        """
        sent, awaited = self.module.crossings(list(outputs))
        return sent, awaited

    def check(self) -> None:
        """Raises what a step in the graph ran into, where no evaluation has raised it yet.

        Raises:
            ExpertReadError: an expert could not be read.
        """
        if self.failed:
            raise self.recover()

    def take_untold(self) -> ExpertReadError | None:
        """Returns what a step ran into while others waited for the stream; from now on it counts as told."""
        error, self.untold = self.untold, None
        return error

    def recover(self) -> ExpertReadError:
        """Lets the steps behind a failed one pass by, forgets them, and returns the failure as an exception."""
        layer, expert, path, reason = self.streams.first()
        self.streams.drain()
        self.streams.delivered()
        self.reader.close()  # files may be put right before the next step: it opens them anew
        self.drop_guesses()
        for native in self.layers:
            native.reclaim()
            native.cache.bank.abandon()
        return ExpertReadError(layer, expert, Path(path), reason)

    def release(self, cache: LayerCache) -> None:
        """Lets go of a layer's bank and table, which are about to be replaced."""
        for native in self.layers:
            if native.cache is cache:
                native.release()
        self.streams.drain()

    def close(self) -> None:
        """Lets go of every layer and closes the files; after the streams are drained."""
        for native in self.layers:
            native.release()
        self.streams.drain()
        if self.prefetcher is not None:
            self.prefetcher.stop(EXIT_SECONDS)
        self.reader.close()


class NativeLayer:
    """One layer's steps in the graph."""

    def __init__(self, decode: NativeDecode, cache: LayerCache) -> None:
        self.decode, self.cache = decode, cache
        self._handle: Any = None
        self._of: tuple[Any, Any] = (None, None)
        self._known: tuple[RoutingPolicy | None, Eviction | None] = (None, None)
        self._policy: Any = None  # as the primitive has it; None where only Python knows the policy or the eviction
        self._queued = 0  # row of the log that the latest step in the graph will write, and one more
        self.next_layer: NativeLayer | None = None  # whose experts this layer's steps prefetch
        self.guesses = 0  # how many of its own experts are guessed
        self._next_scores: mx.array | None = None  # what the next layer's router makes of this layer's input

    @property
    def ready(self) -> bool:
        """Whether this layer's next decode step can run in the graph: the primitive knows its policy and eviction."""
        policy, eviction = self.cache.policy, self.cache.table.eviction
        if self._known[0] is not policy or self._known[1] is not eviction:
            self._known, numbers = (policy, eviction), policy_numbers(policy)
            known = numbers is not None and eviction_numbers(eviction) is not None
            self._policy = self.decode.module.Policy(**numbers._asdict()) if numbers is not None and known else None
        return self._policy is not None

    def step(self, exact: mx.array, **router: mx.array | None) -> GraphStep:
        """See `GraphDecode.step`."""
        cache = self.cache
        self.decode.check()
        if not self.ready:
            raise ValueError(f"{cache.policy.name} with {cache.table.eviction.name} does not run in the graph")
        if cache.spans or cache.table.unfinished is not None:
            self._take_spans()
        handle = self._current()
        self._make_room()
        next_scores, self._next_scores = self._next_scores, None
        next_layer = None
        if next_scores is not None and (to_come := self.next_layer) is not None and to_come.ready:
            next_layer = (to_come._current(), to_come._policy, to_come.guesses)
        lateness = cache.lateness
        rows, left = lateness.rows if lateness.may_owe else 0, lateness.expected() is not None
        taken = handle.decode(
            cache.counter.step,
            self._policy,
            exact,
            **router,
            next_scores=next_scores,
            next=next_layer,
            late_rows=rows,
            light_beyond=lateness.rule.beyond,
            coarse=cache.spec.top_k if lateness.may_be_coarse and router.get("scores") is not None else 0,
            earlier=self._left_by(lateness.earlier) if left else None,
            after=cache.bank.queued,
        )
        chosen, slots, *more = taken
        split = (more[0], more[1]) if rows else None
        return GraphStep(chosen, slots, split, more[-1] if left else None)

    def _left_by(self, earlier: LateLayer | None) -> tuple[Any, int]:
        """Returns the handle of the layer whose late experts join this one's output, and how many rows it has left."""
        assert earlier is not None and isinstance(earlier.native, NativeLayer)
        return earlier.native._current(), earlier.lateness.rows

    def rows(self, chosen: mx.array) -> mx.array:
        """See `GraphDecode.rows`."""
        cache = self.cache
        self.decode.check()
        if len(cache.spans) > MOST_SPANS or cache.table.unfinished is not None:
            self._take_spans()
        handle = self._current()
        self._make_room()
        self._next_scores = None
        slots: mx.array = handle.rows(cache.counter.step, chosen, after=cache.bank.queued)
        return slots

    def _take_spans(self) -> None:
        """Adds the ranges of rows that were routed exactly to the running mean, which waits for them."""
        cache = self.cache
        cache.claim()
        cache.table.mend()
        mx.eval(cache.spans)
        cache.take_spans()

    def _make_room(self) -> None:
        """Waits where the log could not hold the steps that are queued and one more."""
        cache = self.cache
        if self._queued - cache.log.written[0] >= MOST_QUEUED:
            cache.claim()
            self._queued = cache.log.written[0]
        self._queued = max(self._queued, cache.log.written[0]) + 1

    def reclaim(self) -> None:
        """Gives back the slots of stalled reads that have ended since; after the layer's queued steps."""
        if self._handle is not None:
            self._handle.reclaim()

    def guess_next(self, x: mx.array | None) -> None:
        """See `GraphDecode.guess_next`."""
        self._next_scores = None
        if x is None or (next_layer := self.next_layer) is None or next_layer.cache.full:
            return
        if next_layer.cache.router is not None:
            self._next_scores = next_layer.cache.router(x)

    def drop_guess(self) -> None:
        """Drops what was staged for a step that will not come."""
        self._next_scores = None
        if self._handle is not None:
            self._handle.drop_guess()

    def _current(self) -> Any:
        """Returns the handle on the table and bank as they are now."""
        cache = self.cache
        if (self._of[0] is not cache.table) or (self._of[1] is not cache.bank):
            cache.claim()
            decode = self.decode
            self._handle = bind(decode.module, decode.streams, decode.reader, decode.prefetcher, decode.source, cache)
            self._of = (cache.table, cache.bank)
        return self._handle

    def release(self) -> None:
        """Lets go of the bank and the table."""
        self._handle, self._of = None, (None, None)


def _deliver(streams_id: int) -> BaseException:
    """Makes the exception for whoever waits for the stream, which may be in another model's turn."""
    decode = _DECODES.get(streams_id)
    if decode is None:
        return RuntimeError("an expert could not be read")
    error = decode.recover()
    if decode.layers and StepCounter.latest() not in (None, decode.layers[0].cache.counter):
        decode.untold = error
    return error


def _left_behind() -> None:
    """In a forked child: its parent's threads are not there, so that nothing may wait for them or their streams."""
    for decode in list(_DECODES.values()):
        decode.reader.outlive()
        if decode.prefetcher is not None:
            decode.prefetcher.outlive()
    _DECODES.clear()


os.register_at_fork(after_in_child=_left_behind)


@atexit.register
def _drain_all() -> None:
    """Lets queued steps finish while the memory they write to is still there, and ends prefetching."""
    for decode in list(_DECODES.values()):
        decode.streams.drain()
        if decode.prefetcher is not None:
            decode.prefetcher.stop(EXIT_SECONDS)
