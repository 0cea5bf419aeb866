"""Engines in this process, without HTTP, for faults that a test has to make by hand."""

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moe_mlx
from moe_mlx.conversation.sampling import CacheSettings
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.job import Ended, Event, Failed, Job
from moe_mlx.serving.limits import room_of
from moe_mlx.serving.loaded import Loaded


def opener(checkpoint: Path, *, expert_cache: str = "75%", **more: Any) -> Callable[[], Loaded]:
    """Returns what opens a checkpoint under exact routing."""

    def open_it() -> Loaded:
        model, tokenizer = moe_mlx.load(
            checkpoint, expert_cache=expert_cache, routing="exact", decode="readback", say=lambda line: None
        )
        room = room_of(moe_mlx.runtime_of(model), 2048, scores_in_memory=True)
        return Loaded(model, tokenizer, None, CacheSettings(), room, **more)

    return open_it


def listening(job: Job) -> "queue.Queue[Event]":
    """Sends a job's events to a queue."""
    events: queue.Queue[Event] = queue.Queue()
    job.emit = events.put
    return events


def over(events: "queue.Queue[Event]") -> Ended | Failed:
    """Waits for the end of a job."""
    while True:
        event = events.get(timeout=60)
        if isinstance(event, Ended | Failed):
            return event


def answered(engine: Engine, job: Job) -> list[int]:
    """Has a job done and returns its tokens."""
    events = listening(job)
    engine.submit(job)
    end = over(events)
    assert isinstance(end, Ended), end
    return job.tokens
