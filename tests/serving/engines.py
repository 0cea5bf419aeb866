"""Engines in this process, without HTTP, for faults that a test has to make by hand."""

import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moe_mlx
from moe_mlx.conversation.sampling import KVCacheSettings
from moe_mlx.errors import MoeMlxError
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.job import Ended, Event, Failed, Job
from moe_mlx.serving.limits import room_of
from moe_mlx.serving.loaded import Loaded


class CheckpointOpening:
    """Opens a checkpoint under exact routing; what it is asked to do is kept."""

    def __init__(self, checkpoint: Path, *, expert_cache: str = "75%", decode: str = "readback", **more: Any) -> None:
        self.checkpoint, self.more = checkpoint, more
        self.asked = {"expert_cache": expert_cache, "decode": decode}
        self.opened = self.rehearsed = 0
        self.before_open: Callable[[], None] = lambda: None
        self.unfit: MoeMlxError | None = None

    def rehearse(self, freed: int) -> None:
        self.rehearsed += 1
        if self.unfit is not None:
            raise self.unfit

    def open(self) -> Loaded:
        self.before_open()
        self.opened += 1
        model, tokenizer = moe_mlx.load(self.checkpoint, routing="exact", say=lambda line: None, **self.asked)
        plan = moe_mlx.runtime_of(model).plan
        config = moe_mlx.runtime_of(model).config
        room = room_of(config, 8192, plan.kv_cache, plan.mlx_cache, 2048, scores_in_memory=True)
        return Loaded(model, tokenizer, None, KVCacheSettings(), room, **self.more)


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
