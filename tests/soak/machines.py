"""A group of two processes that is stopped, killed and damaged at random: no wrong token, no silence beyond a limit.

python -m tests.soak.machines [--stops 50] [--kills 20] [--damages 20] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import FAULTS, experts
from tests.machines.ranks import ranks

#: Seconds that the ranks which are left may take to say so.
LIMIT = 30
WORDS = ("-m", "moe_mlx", "generate", "--parallel", "pipeline", "-p", "the fox", "--max-tokens", "-1")


def endless(folder: Path) -> Path:
    """Makes a tiny store whose answers do not end."""
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, max_position_embeddings=1 << 20)
    path = folder / "checkpoint" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "~"}))
    convert(folder / "checkpoint", folder / "store")
    return folder / "store"


def stops(folder: Path, count: int, seed: int) -> int:
    """Stops answers of the demo; returns how many were wrong."""
    words = ["-m", "tests.machines.random_stops", str(count), str(seed), "--routing", "exact", "-m", "24"]
    with ranks(folder, [[*words, "--expert-cache", "25%"]] * 2) as group:
        codes = [rank.wait(3600) for rank in group]
        found = json.loads(group[0].told)
    print(f"stops: {found}", flush=True)
    return int(found["wrong"]) + (codes != [0, 0]) + (found["late"] > 2)


def kill(folder: Path, store: Path, rng: random.Random) -> int:
    """Kills one rank at a random moment; returns 1 where the other does not name it in time."""
    rank, more = rng.randrange(2), ["--decode", rng.choice(["native", "readback"]), "--model", str(store)]
    with ranks(folder, [[*WORDS, "--expert-cache", "50%", *more]] * 2) as group:
        time.sleep(rng.uniform(0.2, 12))
        group[rank].process.kill()
        other = group[1 - rank]
        code = other.wait(90 if not group[0].told else LIMIT)
        return int(code != 1 or f"rank {rank} (127.0.0.1)" not in other.said)


def damage(folder: Path, store: Path, rng: random.Random) -> int:
    """Damages one rank's experts; returns 1 where a rank says something else than that."""
    rank, fault = rng.randrange(2), rng.choice(["flipped", "truncated", "emptied", "unlinked"])
    broken = Path(shutil.copytree(store, folder / "broken"))
    for path in experts(broken):
        FAULTS[fault](path)
    stores = [broken if place == rank else store for place in range(2)]
    way = rng.choice(["native", "readback"])
    with ranks(folder, [[*WORDS, "--split", "1,2", "--decode", way, "--model", str(s)] for s in stores]) as group:
        codes = [one.wait(90) for one in group]
        named = f"rank {rank} (127.0.0.1): layer" in group[1 - rank].said
    shutil.rmtree(broken)
    return int(codes != ([1, 3] if rank else [3, 1]) or not named)


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
        store = endless(folder)
        wrong = stops(folder, args.stops, args.seed) if args.stops else 0
        for title, count, work in (("kills", args.kills, kill), ("damages", args.damages, damage)):
            found = sum(work(folder, store, rng) for _ in range(count))
            print(f"{title}: {count}, {found} wrong", flush=True)
            wrong += found
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
