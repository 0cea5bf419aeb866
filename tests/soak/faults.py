"""Turn after turn with broken files, stalls, stops and resizes: every fault ends one turn, no fault outlives it.

`python -m tests.soak.faults --minutes 60` prints what it injected; the test runs a short one. Every 200 turns another
model is loaded, in another way. After each turn every slot must hold its expert's own bytes, and the next exact answer
must be mlx-lm's.
"""

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import mlx.core as mx

from moe_mlx.system.memory import read_memory
from tests.soak.ordeal import DEEDS, FAULTS, FAULTS_IN_PLACE, Ordeal, Setup
from tests.soak.subject import Subject

FAMILIES = ("qwen3_moe", "gpt_oss", "deepseek_v3", "mixtral", "olmoe")
TURNS_PER_MODEL = 200


def draw_setup(chance: Random, decode: str) -> Setup:
    """Returns one way of loading a model."""
    return Setup(
        in_place=chance.random() < 0.2,
        decode=decode,
        io=chance.choice(("cached", "cached", "direct")),
        prefetch=chance.choice(("off", "on")),
        evict=chance.choice(("lru", "lru", "lfu")),
    )


def run(
    seconds: float, seed: int = 0, decode: str = "auto", turns: int = 1 << 30, families: tuple[str, ...] = FAMILIES
) -> dict[str, int]:
    """Runs until `seconds` or `turns` are over and returns what happened, with the growth of the footprint in MB.

    The footprint counts from when every family has been tried once.
    """
    chance, counts = Random(seed), collections.Counter[str]()
    ends, before = time.monotonic() + seconds, 0
    with tempfile.TemporaryDirectory() as folder:
        subjects = [Subject.make(family, Path(folder) / family) for family in families]
        while time.monotonic() < ends and turns > 0:
            if counts["models loaded"] == len(families):
                before = read_memory().footprint
            subject = subjects[counts["models loaded"] % len(families)]
            ordeal = Ordeal(subject, draw_setup(chance, decode), chance, counts)
            counts["models loaded"] += 1
            faults = FAULTS_IN_PLACE if ordeal.setup.in_place else FAULTS
            for _ in range(min(turns, TURNS_PER_MODEL)):
                turns -= 1
                try:
                    ordeal.turn(chance.choice(DEEDS), chance.choice(faults))
                except BaseException:
                    print(f"{subject.family}, {ordeal.setup}, after {counts['deeds']} deeds:", file=sys.stderr)
                    raise
                if time.monotonic() >= ends:
                    break
            ordeal.close()
        counts["footprint growth, MB"] = (read_memory().footprint - before) // 10**6 if before else 0
    return dict(counts)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decode", choices=("auto", "native", "readback"), default="auto")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    for name, count in run(args.minutes * 60, args.seed, args.decode).items():
        print(f"{count:8}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
