"""`/v1/experts`: which expert sits where, and the gauges beside it, as events: what `moe-mlx chat --attach` draws.

The first event, `facts`, says what does not change while a model is there; another model's come before its first state.
Each `state` after it holds four numbers an expert as little-endian arrays, zlib-compressed, in base64, layer after
layer: `slot_of` (int16, -1 for absent), `age` (int32: choices of its layer since it was used), `uses` and `reads`
(uint32).
"""

from __future__ import annotations

import asyncio
import base64
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.serving.health import state_of
from moe_mlx.serving.loaded import Loaded, Opening
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import event
from moe_mlx.serving.service import Service
from moe_mlx.system.memory import read_memory

#: Seconds between two states; watchers at once.
EVERY_SECONDS, MOST_WATCHERS = 0.3, 8


async def watch(request: Request, service: Service) -> Response:
    """Sends states until the client leaves.

    Raises:
        RefusalError: too many watch already.
    """
    state = request.app.state
    watchers = getattr(state, "watchers", 0)
    if watchers >= MOST_WATCHERS:
        raise RefusalError(429, f"{watchers} clients are watching already")
    state.watchers = watchers + 1

    async def frames() -> AsyncIterator[bytes]:
        try:
            shown: Opening | None = None
            while service.engine.alive:
                opening, loaded = service.engine.opening, service.engine.loaded
                if loaded is not None:
                    if opening is not shown:
                        yield event(facts(service, loaded), "facts")
                        shown = opening
                    yield event(state_now(service, loaded), "state")
                del loaded  # what is watched must not be kept in memory
                await asyncio.sleep(EVERY_SECONDS)
        finally:
            state.watchers -= 1

    return StreamingResponse(frames(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def facts(service: Service, loaded: Loaded) -> dict[str, Any]:
    """Returns what does not change while a model is there."""
    runtime, tokenizer = loaded.runtime, loaded.tokenizer
    layers = runtime.source.layers
    return {
        "name": service.loaded_name or "",
        "family": str(runtime.config.get("model_type", "")),
        "experts": [layer.experts for layer in layers],
        "top_k": [layer.top_k for layer in layers],
        "expert_bytes": [layer.expert_nbytes for layer in layers],
        "thinking": [tokenizer.think_start, tokenizer.think_end] if tokenizer.has_thinking else None,
        "context_length": loaded.room.longest,
    }


def state_now(service: Service, loaded: Loaded) -> dict[str, Any]:
    """Returns the map and the gauges; touches no array of MLX, so any thread may ask."""
    engine, kept, tally = service.engine, service.engine.kept, service.engine.tally
    runtime = loaded.runtime
    tables = [cache.table for cache in runtime.layers]
    slots = [np.array(table.slot_of, dtype=np.int64) for table in tables]
    ages = [
        np.where(places >= 0, table.clock - np.frombuffer(table.used, dtype=np.int64)[places], -1)
        for places, table in zip(slots, tables, strict=True)
    ]
    memory, plan = read_memory(), runtime.plan
    return {
        "time": round(time.time() - service.began, 3),
        "status": state_of(engine),
        "phase": engine.phase,
        "running": engine.running,
        "waiting": engine.waiting,
        "answered": tally.answered,
        "failed": tally.failed,
        "generated": tally.generated,
        "routing": runtime.routing.describe(),
        "slots_per_layer": runtime.slots_per_layer,
        "low_slots_per_layer": runtime.low_slots_per_layer,
        "layers": [list(pair) for pair in runtime.layers.ledger.layer_totals()],
        "decode": _counts(runtime.stats.decode),
        "prefill": _counts(runtime.stats.prefill),
        "memory": {
            "expert_slots": runtime.expert_cache_bytes,
            "resident_weights": plan.resident_weights,
            "kv_cache": 0 if kept is None else kept.nbytes,
            "planned": plan.total,
            "footprint": memory.footprint,
            "free": memory.available,
            "total": memory.total,
            "swap": memory.swap_used,
        },
        "slot_of": _packed(np.concatenate(slots), "<i2"),
        "age": _packed(np.minimum(np.concatenate(ages), 2**31 - 1), "<i4"),
        "uses": _packed(np.concatenate([np.frombuffer(table.uses, dtype=np.int64) for table in tables]), "<u4"),
        "reads": _packed(np.concatenate([np.frombuffer(table.reads, dtype=np.int64) for table in tables]), "<u4"),
    }


def _counts(totals: PhaseTotals) -> dict[str, Any]:
    return dict(totals.as_dict())


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(zlib.compress(values.astype(kind).tobytes(), 1)).decode()
