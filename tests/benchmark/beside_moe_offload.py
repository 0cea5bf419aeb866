"""The same random model under the same cap by mlx-vlm's `moe_offload` and by us: tokens, speed, peak memory.

  python -m tests.benchmark.beside_moe_offload [--shape overhead] [--cap 25%] [--tokens 128] [--trials 5]

Each contender runs in a process of its own, one after the other, trial by trial, with its library's own generation
loop: mlx-vlm's over what its `repack` wrote, mlx-lm's over our store, decode in the graph and by read-back. All read
the same random prompt and go on with the same random tokens, whatever the model says, so that no expert is used again
only because a token was repeated; the token that each would have chosen is what is compared. Files are in the page
cache for all of them. Needs the extra `vlm`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

OFFLOAD, NATIVE, READBACK = "mlx-vlm moe_offload", "moe-mlx native", "moe-mlx readback"
PROMPT = 32


def main() -> int:
    """Runs the trials and prints the table; 1 where tokens differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="overhead", help="of `moe-mlx rig make-store` (default: overhead, 590 MB)")
    parser.add_argument("--cap", default="25%", help="of the experts' bytes (default: 25%%)")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--child", nargs=2, metavar=("CONTENDER", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--expert-bytes", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(trial(args.child[0], Path(args.child[1]), args)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return compare(args, *prepare(args.shape, Path(folder)))


def prepare(shape: str, folder: Path) -> tuple[dict[str, Path], int]:
    """Makes the model, and of it what each contender reads; returns folders and the bytes of all experts."""
    from mlx_vlm.moe_offload import repack

    from moe_mlx.loading.proof import prove
    from moe_mlx.rig.random_store import SHAPES, make_checkpoint
    from moe_mlx.store import open_source
    from moe_mlx_convert import convert

    nbytes = make_checkpoint(SHAPES[shape], folder / "model")
    repack(str(folder / "model"), str(folder / "offload"))
    convert(str(folder / "model"), folder / "store", prove=prove, say=lambda line: None)
    with open_source(folder / "store") as source:
        experts = source.experts_nbytes
    print(f"{shape}: {nbytes / 1e6:.0f} MB, {experts / 1e6:.0f} MB of experts", file=sys.stderr)
    return {OFFLOAD: folder / "offload", NATIVE: folder / "store", READBACK: folder / "store"}, experts


def compare(args: argparse.Namespace, folders: dict[str, Path], experts: int) -> int:
    """Runs every contender in every trial and prints what came of it."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    for number in range(args.trials):
        for name, folder in folders.items():
            command = [sys.executable, "-m", "tests.benchmark.beside_moe_offload", "--child", name, str(folder)]
            command += ["--cap", args.cap, "--tokens", str(args.tokens), "--expert-bytes", str(experts)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"trial {number + 1} of {args.trials}: {name}", file=sys.stderr)
    return show(args, found)


def show(args: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> int:
    """Prints the table; 1 where tokens differ."""
    from moe_mlx.system.table import render

    theirs = found[OFFLOAD]
    rows, differ = [], False
    for name, trials in found.items():
        ratios = [theirs[i]["seconds"] / one["seconds"] for i, one in enumerate(trials)]
        equal = [sum(a == b for a, b in zip(one["chosen"], theirs[0]["chosen"], strict=True)) for one in trials]
        differ |= min(equal) < args.tokens
        rows.append(
            (
                name,
                f"{min(equal)} of {args.tokens}",
                f"{median(args.tokens / one['seconds'] for one in trials):.2f}",
                f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                f"{max(one['mlx_peak'] for one in trials) / 1e6:.0f} MB",
                f"{max(one['process_peak'] for one in trials) / 1e6:.0f} MB",
            )
        )
    print(render(("contender", "tokens equal", "tok/s", "beside moe_offload", "MLX's peak", "process's peak"), rows))
    various = len(set(theirs[0]["chosen"]))
    print(f"\ncap {args.cap}, {args.trials} trials of {args.tokens} tokens after {PROMPT}; {various} different ones")
    return int(differ)


def trial(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Generates once and tells what was chosen, how long decode took, and the most memory."""
    import mlx.core as mx

    random = np.random.default_rng(0)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    prompt = random.integers(5, vocabulary, PROMPT).tolist()
    forced = random.integers(5, vocabulary, args.tokens + 2).tolist()
    chosen: list[mx.array] = []

    def go_on(logprobs: mx.array) -> mx.array:
        best = mx.argmax(logprobs, axis=-1)
        chosen.append(best)
        return mx.array([forced[len(chosen) - 1]], best.dtype) + 0 * best  # so that it is computed with the step

    share = float(args.cap.removesuffix("%")) / 100
    if name == OFFLOAD:
        steps = offloaded(folder, prompt, args.tokens, go_on, share * args.expert_bytes / 1e9)
    else:
        steps = capped(folder, prompt, args.tokens, go_on, args.cap, name.split()[1])
    next(steps)
    started = time.perf_counter()
    for _ in range(args.tokens - 1):
        next(steps)
    seconds = (time.perf_counter() - started) * args.tokens / (args.tokens - 1)
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "chosen": [int(best.item()) for best in chosen[: args.tokens]],
        "seconds": seconds,
        "mlx_peak": mx.get_peak_memory(),
        "process_peak": process,
    }


def offloaded(folder: Path, prompt: list[int], tokens: int, sampler: Any, cache_gb: float) -> Iterator[Any]:
    """mlx-vlm's own loading and loop."""
    import mlx.core as mx
    from mlx_vlm.generate.ar import generate_step
    from mlx_vlm.utils import load_model

    model = load_model(folder, expert_cache_gb=cache_gb)
    return generate_step(mx.array([prompt]), model, None, None, sampler=sampler, max_tokens=tokens)


def capped(folder: Path, prompt: list[int], tokens: int, sampler: Any, cap: str, decode: str) -> Iterator[Any]:
    """Our loading, mlx-lm's loop."""
    import mlx.core as mx
    from mlx_lm.generate import generate_step

    import moe_mlx

    model, _ = moe_mlx.load(folder, expert_cache=cap, routing="exact", decode=decode, say=lambda line: None)
    return generate_step(mx.array(prompt), model, sampler=sampler, max_tokens=tokens)


if __name__ == "__main__":
    sys.exit(main())
