"""`moe-mlx plan --machines`: what each way of sharing a model among machines would bring, and which to take."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from moe_mlx.errors import UsageError
from moe_mlx.machines.launched import LINK_NAMES, TENSOR, WAYS
from moe_mlx.store.parts import ROW_BLOCKS
from moe_mlx.system.sizes import parse_size, show_bytes
from moe_mlx.system.table import render

if TYPE_CHECKING:
    from moe_mlx.machines.cost import Machines, Outlook
    from moe_mlx.planning.prediction import Rates
    from moe_mlx.planning.shape import ModelShape

#: What contradicts it: they are of one machine.
_OF_ONE = ("memory", "available", "expert_cache", "miss_rate", "measured")


def add_machines_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--machines` and `--link`."""
    group = parser.add_argument_group("several machines (docs/machines.md)")
    group.add_argument(
        "--machines", metavar="SIZES", help="memory of each, rank 0 first (64GB,32GB): plan for all of them together"
    )
    group.add_argument("--link", choices=LINK_NAMES, default="10G", help="between them (default: 10G)")


def machine_sizes(text: str) -> list[int]:
    """Returns the memory of each machine in "64GB,32GB", in bytes.

    Raises:
        UsageError: it is none of two or more.
    """
    sizes = [parse_size(size) for size in text.split(",")]
    if len(sizes) < 2:
        raise UsageError(f"--machines {text}: give the memory of two at least, such as 64GB,32GB")
    if min(sizes) < 10**9:
        raise UsageError(f"--machines {text}: write a unit, such as 64GB,32GB")
    return sizes


def plan_machines(args: argparse.Namespace, shape: ModelShape, rates: Rates, kv_cache: int) -> int:
    """Plans and prints. Exit code 4 where no way fits.

    Raises:
        UsageError: one machine, or options of one machine.
    """
    from moe_mlx.machines.cost import LINKS, Machines, outlooks, pick
    from moe_mlx.planning.forecast import usable_memory

    for name in _OF_ONE:
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is of one machine: leave it or --machines out")
    sizes = machine_sizes(args.machines)
    available = tuple(usable_memory(size) for size in sizes)
    machines = Machines(available, LINKS[args.link], rates, args.routing == "cache-prior", kv_cache)
    found = outlooks(shape, machines, WAYS)
    chosen = pick(found)
    if args.json:
        body = {
            "model": shape.name,
            "experts_bytes": shape.experts_nbytes,
            "resident_bytes": shape.resident_nbytes,
            "kv_cache_bytes": kv_cache,
            "available_bytes": list(available),
            "link": args.link,
            "machine": rates.name,
            "assumed": rates.assumed,
            "ways": [outlook.as_json() for outlook in found],
            "pick": None if chosen is None else chosen.way,
        }
        print(json.dumps(body))
    else:
        print(_table(args, shape, machines, found, chosen))
    if chosen is None:
        print(f"nothing fits: {found[-1].why_not}", file=sys.stderr)
        return 4
    return 0


def _table(
    args: argparse.Namespace, shape: ModelShape, machines: Machines, found: list[Outlook], chosen: Outlook | None
) -> str:
    heads = [
        "way",
        "experts\nheld",
        "by rank",
        "disk\nby rank",
        "misses\na token",
        "read\na token",
        "ms a token:\nmemory",
        "\ndisk",
        "\nlink",
        "\nlayers",
        "tok/s",
        "bits",
    ]
    cells = []
    for way in found:
        times = [f"{seconds * 1e3:.1f}" for seconds in (way.weights, way.reads, way.link, way.fences)]
        cells.append(
            [
                way.way,
                f"{way.share:.0%}",
                " ".join(map(show_bytes, way.caches)),
                " ".join(map(show_bytes, way.disks)),
                f"{way.misses:.0f}",
                show_bytes(way.read_nbytes),
                *times,
                "NO FIT" if way.why_not else f"{way.tps:.1f}",
                "same" if way.same_bits else "last bits differ",
            ]
        )
    from moe_mlx.machines.cost import row_blocks

    lines = [
        f"{shape.name}: experts {show_bytes(shape.experts_nbytes)}, resident weights "
        f"{show_bytes(shape.resident_nbytes)}, on {len(machines.available)} machines, {args.link} between them",
        f"each like {machines.rates.name}: {machines.rates.assumed}; links as others report them, no Mac has run this",
        "",
        render(heads, cells),
    ]
    if chosen is not None:
        lines += ["", _why(chosen, found)]
        if chosen.layers:
            lines += _places(chosen)
        if chosen.way == TENSOR:
            split = ",".join(map(str, row_blocks(machines.available)))
            lines += [
                f"mlx.launch --hostfile hosts.json -- moe-mlx generate --parallel tensor --split {split} ...",
                f"every rank needs its rows of a store: moe-mlx convert --row-blocks {ROW_BLOCKS} --machines "
                f"{args.machines} --parallel tensor",
            ]
    return "\n".join(lines)


def _why(chosen: Outlook, found: list[Outlook]) -> str:
    others = [way for way in found if way is not chosen]
    said = "; ".join(
        f"{way.way}: {way.why_not}" if way.why_not else f"{way.way} would make {way.tps:.1f} tok/s" for way in others
    )
    return f"take {chosen.way}, the fastest that fits by these figures ({chosen.tps:.1f} tok/s; {said})"


def _places(chosen: Outlook) -> list[str]:
    """Returns how to start it and which files of a store each rank needs."""
    split = ",".join(map(str, chosen.layers))
    lines = [f"mlx.launch --hostfile hosts.json -- moe-mlx generate --parallel pipeline --split {split} ..."]
    for rank, count in enumerate(chosen.layers):
        begin = sum(chosen.layers[rank + 1 :])
        lines.append(
            f"rank {rank} needs {show_bytes(chosen.disks[rank])} of a store: experts/layer-{begin:03d} to "
            f"layer-{begin + count - 1:03d}, and every file that is not in experts/"
        )
    return lines
