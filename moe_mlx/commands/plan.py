"""Predict from headers alone what fits and how fast: a store, a checkpoint, or a hub repository not yet downloaded.

Tokens a second come from a named chip's published memory bandwidth and approximate SSD rate, or from this machine's
calibration (`moe-mlx bench --calibrate`). Miss rates are assumed unless given: `moe-mlx bench` measures them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moe_mlx.commands.plan_arguments import available_bytes
from moe_mlx.commands.plan_machines import add_machines_arguments, plan_machines
from moe_mlx.commands.share_arguments import add_share_arguments, curves_of_args
from moe_mlx.errors import StoreMissingError, UsageError
from moe_mlx.routing.names import DECODE_WAYS, DEFAULT_ROUTING, POLICIES
from moe_mlx.system.given import check_whole, split_list

if TYPE_CHECKING:
    from moe_mlx.planning.prediction import Rates
    from moe_mlx.planning.shape import ModelShape
    from moe_mlx.planning.slot_share import Curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx plan`."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="store, MLX checkpoint folder, hub repository, a known name (moe-mlx list), or demo",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    memory = parser.add_argument_group("memory")
    memory.add_argument(
        "--memory", metavar="SIZE", help="of a Mac (16GB); macOS lets the GPU have 2/3 of it, 3/4 above 32 GB"
    )
    memory.add_argument("--available", metavar="SIZE", help="bytes that MLX may use, instead of --memory")
    memory.add_argument("--expert-cache", metavar="CAPS", help="caps to plan for, separated by commas")
    memory.add_argument("--max-kv-size", type=int, help="tokens of KV cache to leave room for (default: 8192)")
    add_share_arguments(parser)
    add_machines_arguments(parser)
    speed = parser.add_argument_group("speed")
    speed.add_argument("--chip", help="published rates of a chip, such as m4-pro (default: this Mac's, else m4)")
    speed.add_argument("--calibrated", action="store_true", help="this machine's measured rates")
    speed.add_argument(
        "--decode", choices=DECODE_WAYS[1:], default="native", help="where decode routes (default: native)"
    )
    speed.add_argument("--routing", choices=POLICIES[:2], default=DEFAULT_ROUTING, help="(default)")
    speed.add_argument("--miss-rate", type=float, metavar="SHARE", help="of chosen experts, for every cap")
    speed.add_argument("--measured", type=Path, metavar="BENCH.json", help="miss rates that a bench measured")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Plans and prints. Exit code 4 when no cap fits."""
    from moe_mlx.planning.forecast import CAPS, plan_caps, plan_table

    if args.miss_rate is not None and not 0 <= args.miss_rate <= 1:
        raise UsageError(f"--miss-rate {args.miss_rate}: give a share from 0 to 1")
    if args.max_kv_size is not None:
        check_whole("--max-kv-size", args.max_kv_size, of="tokens")
    rates = _rates(args)
    if args.machines is not None:
        shape = _shape(args.model, args.revision)
        return plan_machines(args, shape, rates, _kv_cache(args, shape)[1])
    available = available_bytes(args)
    curves = _curves(args)
    shape = _shape(args.model, args.revision)
    kv_tokens, kv_cache = _kv_cache(args, shape)
    caps = split_list(args.expert_cache, "--expert-cache", str) if args.expert_cache else ["auto", *CAPS]
    lines = plan_caps(
        shape,
        available,
        rates,
        kv_cache=kv_cache,
        caps=caps,
        lossy=args.routing == "cache-prior",
        miss_rate=args.miss_rate,
        known=_measured(args.measured, args.routing),
        curves=curves,
        comfortable=_comfortable(args),
    )
    if args.json:
        print(
            json.dumps(
                {
                    "model": shape.name,
                    "form": shape.form,
                    "built_by": shape.built_by,
                    "beside": [part.as_json() for part in shape.parts],
                    "to_convert": shape.to_convert,
                    "layers": len(shape.layers),
                    "experts_bytes": shape.experts_nbytes,
                    "experts_stored_bytes": shape.stored_nbytes,
                    "resident_bytes": shape.resident_nbytes,
                    "active_bytes": shape.active_nbytes,
                    "kv_cache_bytes": kv_cache,
                    "available_bytes": available,
                    "machine": rates.name,
                    "assumed": rates.assumed,
                    "caps": [line.as_json() for line in lines],
                }
            )
        )
    else:
        print(plan_table(shape, lines, available, rates, kv_tokens, kv_cache))
    if not any(line.fits for line in lines):
        reason = lines[0].why_not if lines else "every cap named is below top_k experts a layer"
        print(f"nothing fits: {reason}", file=sys.stderr)
        return 4
    return 0


def _curves(args: argparse.Namespace) -> Sequence[Curve] | None:
    if args.share == "even":
        return None
    from moe_mlx.store import open_source
    from moe_mlx.store.demo import DEMO
    from moe_mlx.store.files import expanded
    from moe_mlx.store.resolve import resolve

    if args.model != DEMO and not expanded(args.model).is_dir():
        raise UsageError(f"--share measured needs a model on this machine, and {args.model} is no folder here")
    with open_source(resolve(args.model)) as source:
        return curves_of_args(args, source)


def _shape(model: str, revision: str | None) -> ModelShape:
    """Returns a model's shape: of a folder, of the hub's headers, or as published where the hub cannot be reached."""
    from moe_mlx.catalogue.known import known_named, offer
    from moe_mlx.planning.hub_headers import hub_shape
    from moe_mlx.planning.shape import local_shape
    from moe_mlx.store.demo import DEMO, demo_path
    from moe_mlx.store.files import expanded

    if model == DEMO:
        return local_shape(demo_path())
    path = expanded(model)
    known = None if path.exists() or revision is not None else known_named(model)
    if known is not None and "/" not in model:
        return known.shape
    looks_local = model.startswith((".", "/", "~")) or model.count("/") != 1
    try:
        return local_shape(path) if path.exists() or looks_local else hub_shape(model, revision)
    except StoreMissingError as error:
        if known is not None:
            print(f"{error}. This is the plan of its published shape", file=sys.stderr)
            return known.shape
        if model.startswith((".", "/", "~")):
            raise
        raise StoreMissingError(f"{str(error).rstrip('.')}. {offer(model)}") from error


def _kv_cache(args: argparse.Namespace, shape: ModelShape) -> tuple[int, int]:
    """Returns tokens and bytes of KV cache to leave room for: of the model that is here, else as its config has it."""
    from moe_mlx.planning.kv_cache import KV_TOKENS, KVWish, kv_bytes, kv_element_bytes
    from moe_mlx.store.demo import DEMO, demo_path
    from moe_mlx.store.files import expanded

    folder = demo_path() if args.model == DEMO else expanded(args.model)
    if shape.form in ("store", "checkpoint") and not shape.to_convert and "model_file" not in shape.config:
        from moe_mlx.loading.kv_room import kv_room
        from moe_mlx.loading.skeleton import build
        from moe_mlx.store import open_source

        with open_source(folder, verify=False) as source:
            skeleton = build(folder, source)
            room = kv_room(skeleton.model, skeleton.family, skeleton.config, KVWish(args.max_kv_size))
        return room.tokens, room.nbytes
    tokens = args.max_kv_size or KV_TOKENS
    return tokens, kv_bytes(shape.config, tokens, kv_element_bytes(shape.config))


def _comfortable(args: argparse.Namespace) -> int | None:
    if args.available or args.memory:
        return None
    from moe_mlx.system.metal import comfortable_bytes

    return comfortable_bytes()


def _rates(args: argparse.Namespace) -> Rates:
    from moe_mlx.catalogue.estimate import chip_here
    from moe_mlx.planning.chips import chip_named
    from moe_mlx.planning.prediction import Rates
    from moe_mlx.system.calibration import require_calibration

    if args.calibrated:
        if args.chip:
            raise UsageError("--calibrated and --chip contradict each other: give one")
        return Rates.of_calibration(require_calibration())
    if args.chip:
        return Rates.of_chip(chip_named(args.chip), args.decode)
    return Rates.of_chip(chip_here(), args.decode)


def _measured(path: Path | None, routing: str) -> list[tuple[float, float]]:
    if path is None:
        return []
    from moe_mlx.benchmark.results import read_result

    found = read_result(path)
    experts = int(found.model["experts"])
    return [(row.slots_per_layer / experts, 1.0 - row.hit_rate) for row in found.rows if row.setting.routing == routing]
