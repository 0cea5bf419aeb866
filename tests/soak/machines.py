"""Groups of two and three processes that are stopped, killed and damaged at random: no wrong token, no long silence.

python -m tests.soak.machines [--stops 50] [--kills 20] [--damages 20] [--seed 1]

An answer that is broken off has to be the beginning of the one that a lone process gives, byte for byte; every rank
that is left has to say which one failed, and end within `LIMIT`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.machines.ranks import ranks
from tests.soak.broken_group import LIMIT, Ended, Endless, damaged, killed

#: Of the stops; the demo has no row blocks.
STOPPED = (("pipeline", 2, "demo"), ("tensor", 3, ""))


def stops(folder: Path, endless: Endless, count: int, seed: int) -> int:
    """Stops answers of the demo by layers and of the tiny store by rows; returns what was wrong."""
    wrong = 0
    for number, (parallel, size, model) in enumerate(STOPPED):
        share = count - count // 2 if number == 0 else count // 2
        words = ["-m", "tests.machines.random_stops", str(share), str(seed), "--parallel", parallel, "-m", "16"]
        words += ["--routing", "exact", "--expert-cache", "25%", "--model", model or str(endless.store)]
        with ranks(folder, [words] * size) as group:
            codes = [rank.wait(4 * 3600) for rank in group]
            found = json.loads(group[0].told) if group[0].told else {"wrong": 1, "late": 0, "said": group[0].said}
        print(f"stops, {parallel}, {size} ranks: {found}", flush=True)
        wrong += int(found["wrong"]) + any(codes) + (found["late"] > 2)
    return wrong


def many(title: str, count: int, folder: Path, endless: Endless, rng: random.Random) -> int:
    """Breaks groups; returns how many of them did not end as they have to."""
    found: Counter[str] = Counter()
    slowest, wrong = 0.0, 0
    for number in range(count):
        began = time.monotonic()
        try:
            ended = (killed if title == "kills" else damaged)(folder, endless, rng)
        except TimeoutError as error:  # it never began, or goes on as if nothing were wrong
            ended = Ended("nowhere", str(error)[-2000:], 0.0, 0)
        found[ended.where] += 1
        wrong += bool(ended.wrong)
        slowest = max(slowest, ended.seconds)
        took = time.monotonic() - began
        said = ended.wrong or f"{ended.compared} bytes as alone, the others ended {ended.seconds:.1f} s later"
        print(f"{title} {number + 1}: {ended.where}: {said} ({took:.0f} s in all)", flush=True)
    print(f"{title}: {count} ({dict(found)}), {wrong} wrong, slowest end {slowest:.1f} s of {LIMIT}", flush=True)
    return wrong


def main() -> int:
    """Runs all three; exit code 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--damages", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Endless.made(folder) as endless:
            wrong = many("kills", args.kills, folder, endless, rng)
            wrong += many("damages", args.damages, folder, endless, rng)
            wrong += stops(folder, endless, args.stops, args.seed) if args.stops else 0
    print(f"{wrong} wrong", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
