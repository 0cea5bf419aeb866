"""A random store of several hundred megabytes over two and three processes: tokens, and what each rank takes.

python -m tests.soak.shared_store [--folder FOLDER] [--max-tokens 16] [--routing exact]

The store is made in FOLDER, where it is not there yet, and stays there; without one it goes when the command ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_mlx.rig.random_store import SHAPES, make_checkpoint
from moe_mlx.system.table import render
from moe_mlx_convert.reshard import convert
from tests.machines.ranks import ranks

LIMIT = 3600
CAP = "25%"
ROUTINGS = ("exact", "cache-prior")
GROUPS = (("pipeline", 2), ("pipeline", 3), ("tensor", 2), ("tensor", 3))
#: What a rank says of itself, beside what its answer counted.
HELD = ("expert_cache_bytes", "resident_bytes", "peak_memory_bytes")


def store_in(folder: Path) -> Path:
    """Returns the store, made with row blocks where it is not there yet."""
    store = folder / "store"
    if not store.exists():
        make_checkpoint(replace(SHAPES["overhead"], vocabulary=512), folder / "checkpoint")
        convert(str(folder / "checkpoint"), str(store), row_blocks=16, compare=False)
    return store


def words_of(store: Path, routing: str, tokens: int) -> list[str]:
    """Returns the command of one answer."""
    return [
        *("-m", "moe_mlx", "generate", "--model", str(store), "-p", "hello", "-m", str(tokens), "--json"),
        *("--expert-cache", CAP, "--routing", routing, "--max-kv-size", "256", "--no-history"),
    ]


def alone(words: Sequence[str]) -> dict[str, Any]:
    """Returns what one process answers."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=LIMIT, check=True)
    return dict(json.loads(done.stdout))


def together(folder: Path, words: Sequence[str], parallel: str, size: int) -> dict[str, Any]:
    """Returns what a group answers.

    Raises:
        RuntimeError: a rank failed.
    """
    with ranks(folder, [[*words, "--parallel", parallel]] * size) as group:
        codes = [rank.wait(LIMIT) for rank in group]
        if any(codes):
            raise RuntimeError(f"exit codes {codes}: {[rank.said for rank in group]}")
        return dict(json.loads(group[0].told))


def compare(folder: Path, tokens: int, routings: Sequence[str]) -> int:
    """Runs all; prints a row a rank, and returns how many groups answered otherwise than one process."""
    store, rows, wrong = store_in(folder), [], 0
    for routing in routings:
        words = words_of(store, routing, tokens)
        whole = alone(words)
        rows.append(row_of("one process", routing, 0, "", whole))
        for parallel, size in GROUPS:
            found = together(folder, words, parallel, size)
            read = [rank["decode"]["bytes_read"] for rank in found["machines"]]
            same = found["tokens"] == whole["tokens"] and sum(read) == whole["bytes_read"]
            wrong += not same
            for number, rank in enumerate(found["machines"]):
                layers = f"{rank['layers'][0]}-{rank['layers'][-1]}" if parallel == "pipeline" else "rows of all"
                values = {**rank, **rank["decode"]}
                rows.append(row_of(f"{parallel} {size}", routing, number, layers, values, "yes" if same else "NO"))
                print("  ".join(rows[-1]), file=sys.stderr, flush=True)  # each takes minutes on a machine that is busy
    heads = ["way", "routing", "rank", "layers", "experts held", "resident", "peak", "read", "misses", "tokens equal"]
    print(render(heads, rows))
    experts = sum(path.stat().st_size for path in (store / "experts").rglob("*.safetensors"))
    print(f"\nexperts {experts / 1e6:.0f} MB; MB by MLX's count, {tokens} tokens; read: at decode; cap {CAP}")
    return wrong


def row_of(way: str, routing: str, rank: int, layers: str, found: dict[str, Any], same: str = "") -> list[str]:
    """Returns a row of the table."""
    held = [f"{found[name] / 1e6:.1f}" if name in found else "" for name in HELD]
    return [way, routing, str(rank), layers, *held, f"{found['bytes_read'] / 1e6:.1f}", str(found["misses"]), same]


def main() -> int:
    """Compares; exit code 1 where a group answered otherwise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--routing", choices=ROUTINGS, action="append", help="by default both")
    args = parser.parse_args()
    with ExitStack() as undo:
        folder = args.folder or Path(undo.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        return int(compare(folder, args.max_tokens, args.routing or ROUTINGS) > 0)


if __name__ == "__main__":
    sys.exit(main())
