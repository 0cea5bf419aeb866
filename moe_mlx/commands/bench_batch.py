"""`moe-mlx bench batch`: decode of several rows at once, as the server's clients share it."""

from __future__ import annotations

import argparse
import json

from moe_mlx.errors import UsageError
from moe_mlx.system.given import check_whole, split_list


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx bench batch`."""
    parser.add_argument("batch_model", metavar="MODEL", help="store, MLX checkpoint folder, hub repository, or demo")
    parser.add_argument("--rows", default="1,2,4,8", help="rows at once (default: %(default)s)")
    parser.add_argument("--expert-cache", default="50%", metavar="CAP", help="(default: 50%%)")
    parser.add_argument("--generation-tokens", "-g", type=int, default=64, help="steps of a trial (default: 64)")
    parser.add_argument("--num-trials", "-n", type=int, default=3, help="trials of each, alternating (default: 3)")
    parser.add_argument(
        "--baseline-model", help="checkpoint for mlx-lm, where MODEL is a store; 'none' for no baseline"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run_batch(args: argparse.Namespace) -> int:
    """Prints tokens a second in the graph, read back and with everything resident, and what each token reads."""
    sizes = split_list(args.rows, "--rows", int)
    if min(sizes) < 1 or max(sizes) > 64:
        raise UsageError("--rows takes 1 to 64")
    check_whole("--generation-tokens", args.generation_tokens)
    check_whole("--num-trials", args.num_trials)
    from moe_mlx.benchmark.batches import BatchBench, batch_table, run_batches
    from moe_mlx.store import open_source
    from moe_mlx.store.resolve import resolve
    from moe_mlx.system.machine import describe_machine, machine_line
    from moe_mlx.system.talk import Talk

    folder = resolve(args.batch_model)
    with open_source(folder) as source:
        in_place = source.in_place
    named = args.baseline_model
    whole = None if named == "none" else resolve(named) if named is not None else folder if in_place else None
    talk = Talk()
    cap = args.expert_cache
    bench = BatchBench(folder, whole, cap, tuple(sizes), args.generation_tokens, args.num_trials)
    rows = run_batches(bench, talk.say)
    machine = describe_machine()
    if args.json:
        described = {"kind": "moe-mlx bench batch", "version": 1, "machine": machine, "model": folder.name, "cap": cap}
        print(json.dumps({**described, "rows": [row.as_json() for row in rows]}))
        return 0
    print(f"{folder.name} at {cap}, exact routing, {machine_line(machine)}; every way said the same\n")
    print(batch_table(rows))
    return 0
