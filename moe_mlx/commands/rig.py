"""Run a command under a memory limit and a disk read limit, and tell what it took (Linux, root, cgroup v1).

  moe-mlx rig --memory 2GB --read-limit 50MB -- moe-mlx generate --model STORE --prompt Hello
  moe-mlx rig make-store --shape qwen3-30b-a3b DST

The command's output goes where it would have gone; the report goes to standard error. The exit code is the command's.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from moe_mlx.commands.parser import CommandParser
from moe_mlx.errors import UsageError

MAKE = "make-store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx rig`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--memory", metavar="SIZE", help="limit, page cache included; no swap")
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument("--read-limit", metavar="SIZE", help="bytes a second from the disk that holds the store")
    rate.add_argument(
        "--as",
        dest="like",
        metavar="CHIP",
        help="limit reads so that the disk is as slow beside this machine's memory as a Mac's (m4-pro: 45 to 1)",
    )
    parser.add_argument(
        "--weight-rate", metavar="SIZE", help="for --as, instead of the calibrated rate: bytes a second"
    )
    parser.add_argument("--store", type=Path, help="what lies on the disk to limit (default: a folder in COMMAND)")
    parser.add_argument(
        "--cold", action="store_true", help="drop the store from the page cache first, so that its pages count too"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON too")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND...", help="after --; or: make-store [--help]"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command and reports; or makes a store."""
    words: list[str] = args.command
    if words[:1] == [MAKE]:
        return _make(words[1:])
    if words[:1] == ["--"]:
        words = words[1:]
    if not words:
        raise UsageError("no command: write it after --, as in `moe-mlx rig --memory 2GB -- moe-mlx generate ...`")

    from moe_mlx.rig.cgroup import Limits, device_of, why_not
    from moe_mlx.rig.limited import drop_cached, run_limited, store_in
    from moe_mlx.system.sizes import parse_size

    if (reason := why_not()) is not None:
        raise UsageError(f"the rig cannot run here: {reason}")
    if shutil.which(words[0]) is None:
        raise UsageError(f"{words[0]}: no such command")
    memory = parse_size(args.memory) if args.memory else None
    rate = parse_size(args.read_limit) if args.read_limit else _rate_like(args.like, args.weight_rate)
    if (memory is not None and memory < 1 << 20) or (rate is not None and rate < 1 << 16):
        raise UsageError("a limit that low stops everything: --memory of 1 MB, --read-limit of 64 kB at least")
    store = args.store or store_in(words)
    if args.cold:
        if store == Path.cwd():
            raise UsageError("--cold needs to know the store: name it with --store")
        drop_cached(store)
    try:
        device = device_of(store)
    except UsageError:
        if rate is not None:
            raise
        device = None
    with Limits(memory, rate, device) as limits:
        report = run_limited(words, limits)
    sys.stdout.flush()
    print(report.lines(), file=sys.stderr)
    if args.json is not None:
        args.json.write_text(json.dumps(report.as_json()) + "\n")
    return report.exit_code


def _rate_like(chip: str | None, weight_rate: str | None) -> int | None:
    if chip is None:
        return None
    from moe_mlx.planning.chips import chip_named
    from moe_mlx.system.calibration import read_calibration
    from moe_mlx.system.sizes import parse_size, show_bytes

    found = chip_named(chip)
    stored = read_calibration()
    weights = parse_size(weight_rate) if weight_rate else stored.weight_rate if stored is not None else None
    if weights is None:
        raise UsageError("--as needs this machine's weight rate: `moe-mlx bench --calibrate`, or --weight-rate 600MB")
    rate = int(weights / found.ratio)
    print(
        f"{found.name}: memory {found.ratio:.0f} times as fast as its SSD; here weights go at {show_bytes(weights)}/s, "
        f"so reads are limited to {show_bytes(rate)}/s",
        file=sys.stderr,
    )
    return rate


def _make(words: Sequence[str]) -> int:
    from moe_mlx.rig.random_store import SHAPES, Shape

    parser = CommandParser(
        prog=f"moe-mlx rig {MAKE}",
        description="Make a random-weight qwen3_moe checkpoint (4-bit, float32 scales) of a real model's shape.",
    )
    parser.add_argument("destination", metavar="DST", type=Path)
    parser.add_argument("--shape", choices=tuple(SHAPES), default="overhead", help="(default: overhead)")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many layers (default: 1)")
    for field in Shape.__dataclass_fields__:
        parser.add_argument(f"--{field.replace('_', '-')}", type=int, help="instead of the shape's")
    parser.add_argument("--store", action="store_true", help="convert it to a store; the checkpoint is removed")
    args = parser.parse_args(list(words))

    from dataclasses import replace

    from moe_mlx.rig.random_store import make_checkpoint, scaled
    from moe_mlx.system.sizes import show_bytes
    from moe_mlx.system.talk import Talk

    given = {name: getattr(args, name) for name in Shape.__dataclass_fields__ if getattr(args, name) is not None}
    shape, talk = replace(scaled(SHAPES[args.shape], args.scale), **given), Talk()
    folder = args.destination.with_name(f"{args.destination.name}.checkpoint") if args.store else args.destination
    if args.destination.exists():
        raise UsageError(f"{args.destination} is there already: name a new folder")
    total = make_checkpoint(shape, folder, progress=lambda done, all_: talk.progress(f"shard {done} of {all_}"))
    talk.clear()
    if args.store:
        from moe_mlx_convert import convert

        convert(str(folder), str(args.destination), compare=False)
        shutil.rmtree(folder)
    print(f"{args.destination}: {shape.layers} layers x {shape.experts} experts, {show_bytes(total)}")
    return 0
