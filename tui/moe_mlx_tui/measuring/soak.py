"""A long conversation that nobody types: what `moe-mlx bench soak` runs, and, for seconds, a test."""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from moe_mlx.system.memory import read_memory
from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.app import ChatApp
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Configure, Stop
from moe_mlx_tui.engine.snapshot import CLOSED, FAILED, LOADING, Snapshot

SIZES = ((132, 40), (100, 30), (80, 24), (60, 20))
PROMPTS = ("Tell me a story.", "What is 7 times 8?", "Name three colours.", "Say something long, then count to twenty.")
CAPS = ("50%", "25%", "100%", "50%")
#: A conversation is begun anew after so many turns, as people do.
TURNS = 12


def soak(args: argparse.Namespace, *, seconds: float, growth: float, say: Callable[[str], None] = print) -> int:
    """Talks for `seconds`; returns 1 if the footprint grew by more than `growth` from the first third to the end."""
    with tempfile.TemporaryDirectory() as home:
        return asyncio.run(_soak(args, seconds, growth, say, Path(home)))


async def _soak(args: argparse.Namespace, seconds: float, growth: float, say: Callable[[str], None], home: Path) -> int:
    engine = Engine(args)
    arrived = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wake(snapshot: Snapshot) -> None:
        loop.call_soon_threadsafe(arrived.set)

    engine.listeners.append(wake)
    app = ChatApp(engine, home=home)

    async def until(wanted: Callable[[Snapshot], bool]) -> None:
        while not wanted(engine.latest):
            if engine.latest.phase in (FAILED, CLOSED):
                raise RuntimeError(engine.latest.error or "the engine ended")
            arrived.clear()
            await arrived.wait()

    settled, stopped, turn = 0, 0, 0
    async with app.run_test(size=SIZES[0]) as pilot:
        await until(lambda s: s.phase != LOADING)
        begun = time.monotonic()
        while (elapsed := time.monotonic() - begun) < seconds:
            turn += 1
            if turn % TURNS == 0:
                await app.action_new_session()
            if turn % 5 == 0:
                engine.submit(Configure(expert_cache=CAPS[turn // 5 % len(CAPS)]))
            await pilot.resize_terminal(*SIZES[turn % len(SIZES)])
            await app.ask(PROMPTS[turn % len(PROMPTS)])
            name = app.turn
            if turn % 3 == 0:
                stopped += 1
                await until(lambda s, name=name: s.turn == name and (s.tokens > 3 or s.receipt is not None))  # type: ignore[misc]
                engine.submit(Stop(name))
            await until(lambda s, name=name: s.turn == name and (s.receipt is not None or bool(s.error)))  # type: ignore[misc]
            app.call_later(app.tick)
            await pilot.pause()
            while app.view is not None:
                await pilot.pause()
                app.call_later(app.tick)
            gc.collect()
            footprint = read_memory().footprint
            if not settled and elapsed >= seconds / 3:
                settled = footprint
            finish = engine.latest.receipt.finish if engine.latest.receipt else "error"
            say(f"{elapsed:6.0f} s  turn {turn:4d}  {show_bytes(footprint)}  {finish}")
        app.exit(0)
    engine.close()
    gc.collect()
    final = read_memory().footprint
    settled = settled or final
    more = final / settled - 1
    verdict = "flat" if more <= growth else "GREW"
    grown = f"{show_bytes(settled)} -> {show_bytes(final)} ({more:+.1%})"
    say(f"{turn} turns, {stopped} stopped; footprint {grown}: {verdict}")
    return int(more > growth)
