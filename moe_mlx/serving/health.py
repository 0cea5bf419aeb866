"""`/health`: whether an answer can be had now, told from what the generating thread does."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.errors import MachinesError
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.replies import Reply
from moe_mlx.serving.service import Service

#: Seconds without a step, with answers under way, after which something is stuck: a drive that stalls, most likely.
STALLED_SECONDS = 60.0
#: The same while another model is loaded.
LOADING_SECONDS = 600.0
#: Answers that failed one after the other before the server calls itself failing.
FAILING = 3


def state_of(engine: Engine) -> str:
    """Returns "ok", "failing", "stalled" or "dead"."""
    if not engine.alive:
        return "dead"
    phase = engine.phase
    patience = LOADING_SECONDS if phase == "loading" else STALLED_SECONDS
    if (engine.running or engine.waiting or phase == "loading") and time.monotonic() - engine.beat > patience:
        return "stalled"
    return "failing" if phase == "empty" or engine.tally.failed_in_a_row >= FAILING else "ok"


async def health(request: Request, service: Service) -> Response:
    """Answers 200 while answers can be had, else 503; details only with the key, where there is one."""
    engine = service.engine
    state = state_of(engine)
    body: dict[str, Any] = {"status": state}
    if request.scope["state"].get("known", True):
        loaded, tally = engine.loaded, engine.tally
        body |= {
            "model": service.loaded_name,
            "running": engine.running,
            "waiting": engine.waiting,
            "answered": tally.answered,
            "failed": tally.failed,
            "failed_in_a_row": tally.failed_in_a_row,
            "planned_bytes": 0 if loaded is None else loaded.runtime.plan.total,
            "seconds_since_step": round(time.monotonic() - engine.beat, 3),
        }
        if loaded is not None and loaded.session is not None:
            body["machines"] = loaded.session.whole.machines()
        if isinstance(engine.death, MachinesError):
            body["trouble"] = str(engine.death)
    return Reply(body, status_code=200 if state == "ok" else 503)
