"""`/v1/experts`: which expert sits where, and the gauges beside it, as events: what `moe-mlx chat --attach` draws.

The first event, `facts`, says what does not change while a model is there; another model's come before its first state.
Each `state` after it holds the map as `moe_mlx.conversation.figures` packs it. A server that can answer no more says
why with `ended`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from moe_mlx.conversation.figures import facts_of, figures_of, map_of
from moe_mlx.serving.health import state_of
from moe_mlx.serving.loaded import Loaded, Opening
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import event
from moe_mlx.serving.service import Service

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
            if (word := service.engine.last_word) is not None:
                yield event({"message": word.message}, "ended")
        finally:
            state.watchers -= 1

    return StreamingResponse(frames(), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def facts(service: Service, loaded: Loaded) -> dict[str, Any]:
    """Returns what does not change while a model is there; `ranks` where several machines run it."""
    runtime, tokenizer, session = loaded.runtime, loaded.tokenizer, loaded.session
    return {
        "name": service.loaded_name or "",
        "family": str(runtime.config.get("model_type", "")),
        **(facts_of(runtime) if session is None else session.whole.facts()),
        "thinking": [tokenizer.think_start, tokenizer.think_end] if tokenizer.has_thinking else None,
        "context_length": loaded.room.longest,
    }


def state_now(service: Service, loaded: Loaded) -> dict[str, Any]:
    """Returns the map and the gauges; touches no array of MLX, so any thread may ask."""
    engine, kept, tally, session = service.engine, service.engine.kept, service.engine.tally, loaded.session
    found = figures_of(loaded.runtime) | map_of(loaded.runtime) if session is None else session.whole.with_map()
    kept_nbytes = session.kv_nbytes if session is not None else 0 if kept is None else kept.nbytes
    return {
        "time": round(time.time() - service.began, 3),
        "status": state_of(engine),
        "phase": engine.phase,
        "running": engine.running,
        "waiting": engine.waiting,
        "answered": tally.answered,
        "failed": tally.failed,
        "generated": tally.generated,
        **found,
        "memory": {**found["memory"], "kv_cache": kept_nbytes},
    }
