"""Kills an upgrade in a store's own place at random moments: `python kill_and_replace.py SOURCE WORK KILLS SEED`.

A process of its own, without MLX, as `kill_and_resume.py`. After each kill the old store or the new one is whole, and
under the store's name there is one of them or nothing; the same command goes on from there. Prints one JSON object.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from functools import partial
from pathlib import Path

from moe_mlx_convert import Summary, upgrade
from tests.fault.kill_and_resume import contents, killed

_upgrade = partial(upgrade, nested=True, row_blocks=4)


def replace(_: Path, store: Path) -> Summary:
    return _upgrade(store, replace=True)


def lengths(source: Path, work: Path) -> tuple[float, float]:
    """Returns how long an upgrade takes, and one in the store's own place."""
    store = Path(shutil.copytree(source, work / "timed"))
    begun = time.monotonic()
    _upgrade(store, work / "two")
    beside = time.monotonic() - begun
    begun = time.monotonic()
    replace(store, store)
    whole = time.monotonic() - begun
    shutil.rmtree(store)
    return min(beside, whole), whole


def main() -> None:
    source, work, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    chance = random.Random(seed)
    beside, length = lengths(source, work)
    one, two, room = contents(source), contents(work / "two"), work / "room"
    told, stages = {"kills": 0, "late": 0, "again": 0, "resumed": 0, "wrong": 0}, dict[str, int]()
    while told["kills"] < kills and told["late"] < 4 * kills + 20:
        store = Path(shutil.copytree(source, room / "store"))
        begin = 0 if chance.random() < 0.5 else 0.8 * beside  # half of them while the stores change places
        if killed(replace, store, store, chance.uniform(begin, 1.2 * length)):
            told["kills"] += 1
            if chance.random() < 0.3:  # and once more, while it goes on
                told["again"] += killed(replace, store, store, chance.uniform(0, length))
            left = {path.name: contents(path) for path in room.iterdir()}
            stage = " + ".join(sorted(left))
            stages[stage] = stages.get(stage, 0) + 1
            whole = [found for found in left.values() if found in (one, two)]
            told["wrong"] += not whole or left.get("store", one) not in (one, two)
            if left != {"store": two}:  # it may have been killed after its last step
                told["resumed"] += replace(store, store).files_resumed > 0
        else:
            told["late"] += 1
        told["wrong"] += {path.name: contents(path) for path in room.iterdir()} != {"store": two}
        shutil.rmtree(room)
    print(json.dumps({**told, "stages": stages}))


if __name__ == "__main__":
    main()
