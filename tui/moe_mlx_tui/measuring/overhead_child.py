"""The measured side of `overhead`: the app on the terminal it was given, driven by a job instead of a person."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import random
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx_tui.app import ChatApp
from moe_mlx_tui.base_app import RATE
from moe_mlx_tui.engine.cell_sampler import CellSampler
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Order
from moe_mlx_tui.engine.snapshot import DECODE, FAILED, IDLE, Memory, ModelFacts, Snapshot

LAYERS, EXPERTS, TOP_K, TOKENS_A_FRAME = 48, 128, 8, 2


def frames(count: int) -> Iterator[Snapshot]:
    """Yields a model of 48 x 128 at half its experts as it decodes: real tables, a skewed choice of experts."""
    rng = random.Random(7)
    tables = [ResidencyTable(EXPERTS, EXPERTS // 2, LeastRecentlyUsed()) for _ in range(LAYERS)]
    spec = SimpleNamespace(top_k=TOP_K)
    runtime: Any = SimpleNamespace(layers=[SimpleNamespace(table=table, spec=spec) for table in tables])
    sampler = CellSampler(runtime)
    liked = [rng.sample(range(EXPERTS), EXPERTS) for _ in tables]
    facts = ModelFacts("48 x 128", "qwen3_moe", (EXPERTS,) * LAYERS, (TOP_K,) * LAYERS, (2_000_000,) * LAYERS)
    memory = Memory(6_144_000_000, 1_500_000_000, 400_000_000, 8_000_000_000, 10**8, 8 * 10**9, 4 * 10**9, 16 * 10**9)
    hits, misses = [0] * LAYERS, [0] * LAYERS
    total = PhaseTotals()
    for frame in range(count + 40):
        for _ in range(TOKENS_A_FRAME):
            for layer, table in enumerate(tables):
                chosen: dict[int, None] = {}
                while len(chosen) < TOP_K:
                    chosen[liked[layer][min(EXPERTS - 1, int(rng.expovariate(1 / 28)))]] = None
                admission = table.begin(list(chosen))
                for placed in admission.misses:
                    table.commit(placed)
                table.count(list(chosen), [placed.expert for placed in admission.misses])
                hits[layer] += len(admission.hits)
                misses[layer] += len(admission.misses)
                total += PhaseTotals(0, 0, len(admission.hits), len(admission.misses), 1, 10**6, 0.001)
        sampled = sampler.sample()
        if frame >= 40:  # warm by then
            yield Snapshot(
                time=frame / RATE,
                phase=DECODE,
                model=facts,
                turn="x",
                tokens=frame,
                tps=10 + frame % 5,
                cells=sampled["cells"],
                slots=sampled["slots"],
                uses=sampled["uses"],
                reads=sampled["reads"],
                slots_per_layer=(EXPERTS // 2,) * LAYERS,
                layer_hits=tuple(hits),
                layer_misses=tuple(misses),
                answer=total,
                running=total,
                memory=memory,
                routing="exact",
            )


class _Shown:
    """A source that shows what it is given."""

    live = True

    def __init__(self) -> None:
        self.latest = Snapshot()

    def start(self) -> None: ...

    def submit(self, order: Order) -> None: ...

    def close(self) -> None: ...


def draw(job: dict[str, Any]) -> dict[str, Any]:
    """Draws so many frames, each flushed before the next."""
    source = _Shown()
    app = ChatApp(source, poll=False)
    spent: list[float] = []

    async def play() -> None:
        for snapshot in frames(int(job["frames"])):
            source.latest = replace(snapshot)
            began = time.thread_time()
            await app.tick()
            drawn = asyncio.Event()
            app.screen.call_after_refresh(drawn.set)
            await drawn.wait()
            spent.append(time.thread_time() - began)
            await asyncio.sleep(0.05)
        app.exit(0)

    app.call_later(lambda: app.run_worker(play(), exit_on_error=True))
    app.run()
    return {"ms": 1000 * sum(spent) / max(1, len(spent))}


def race(job: dict[str, Any]) -> dict[str, Any]:
    """Answers the same prompt with and without publishing and drawing, alternating."""
    engine = Engine(argparse.Namespace(**job["args"]))
    app = ChatApp(engine)
    found: dict[str, Any] = {"with": [], "without": [], "tokens": 0}

    async def answer(quiet: bool) -> None:
        engine.publisher.quiet = quiet
        if app.sampling is not None:
            app.sampling.pause() if quiet else app.sampling.resume()
        await app.action_new_session()
        await app.ask(job["prompt"])
        while not (engine.latest.turn == app.turn and (engine.latest.receipt or engine.latest.error)):
            await asyncio.sleep(0.05)
        if engine.latest.receipt is None:
            raise RuntimeError(engine.latest.error)
        if app.sampling is not None:
            app.sampling.resume()
        while app.view is not None:
            await asyncio.sleep(0.05)
        found["without" if quiet else "with"].append(engine.latest.receipt.tps)
        found["tokens"] = engine.latest.receipt.tokens

    async def play() -> None:
        while engine.latest.phase != IDLE:
            if engine.latest.phase == FAILED:
                raise RuntimeError(engine.latest.error)
            await asyncio.sleep(0.05)
        for quiet in (True, False):  # warm
            await answer(quiet)
        found["with"], found["without"] = [], []
        for _ in range(int(job["rounds"])):
            for quiet in (True, False):
                await answer(quiet)
        app.exit(0)

    app.call_later(lambda: app.run_worker(play(), exit_on_error=True))
    try:
        app.run()
    finally:
        engine.close()
    return found


if __name__ == "__main__":
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that it ends with who measures: a lost terminal hangs up
    work = json.loads(sys.argv[1])
    result = draw(work) if work["kind"] == "frames" else race(work)
    Path(sys.argv[2]).write_text(json.dumps(result))
