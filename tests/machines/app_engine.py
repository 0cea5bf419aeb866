"""The app's engine as rank 0, without a screen: asks twice, and writes what its snapshots showed, as JSON.

python -m tests.machines.app_engine [arguments of moe-mlx chat]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict

from moe_mlx.commands import chat
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, Compare, Configure, Load
from moe_mlx_tui.engine.snapshot import FAILED, IDLE, Snapshot

#: Of bytes, which are more slots where experts have fewer rows.
SMALL = "0.1MB"


def until(engine: Engine, seconds: float = 200, **wanted: object) -> Snapshot:
    """Waits for a snapshot with these fields."""
    ends = time.monotonic() + seconds
    while any(getattr(engine.latest, name) != value for name, value in wanted.items()):
        assert time.monotonic() < ends and engine.latest.phase != FAILED, engine.latest.error
        time.sleep(0.02)
    return engine.latest


def asked(engine: Engine, turn: str, text: str) -> Snapshot:
    """Asks, and waits for the answer or its error."""
    engine.submit(Ask(turn, 0, ({"role": "user", "content": text},)))
    while not (engine.latest.turn == turn and (engine.latest.receipt is not None or engine.latest.error)):
        time.sleep(0.02)
    return engine.latest


def main() -> None:
    """Runs."""
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    engine = Engine(parser.parse_args(sys.argv[1:]))
    engine.start()
    first = until(engine, phase=IDLE)
    answer = asked(engine, "a", "the fox")
    engine.submit(Compare("c", ({"role": "user", "content": "x"},), ("exact", "lambda 0.2")))
    engine.submit(Load(model="demo"))
    for cap in ("1%", SMALL, "100%"):  # the first is below the floor
        engine.submit(Configure(expert_cache=cap))
        again = asked(engine, f"after {cap}", "the fox")
    engine.submit(Configure(routing={"light": "late"}))
    again = asked(engine, "b", "the fox")
    found = {
        "ranks": [] if first.model is None else list(first.model.ranks),
        "cells": len(answer.cells),
        "present": [cell != 0 for cell in answer.cells],
        "text": answer.text,
        "again": again.text,
        "machines": [asdict(machine) for machine in again.machines],
        "receipt": [] if answer.receipt is None else list(answer.receipt.machines),
        "hits": answer.answer.hits + answer.answer.misses,
        "remarks": list(again.remarks),
        "compared": "" if again.compared is None else again.compared.error,
        "share": again.cap_share,
    }
    engine.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
