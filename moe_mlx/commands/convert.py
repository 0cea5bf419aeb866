"""Reshard an MLX mixture-of-experts checkpoint into one file per expert, so that a miss is one read.

Bytes are copied, not decoded: every dtype and quantisation stays as it is. The folder appears under its name when it is
whole; until then it is MLX_PATH.partial, and running the same command again resumes it.

--nested and --row-blocks rearrange each expert's bytes (version 2 of the store): joined again they are the checkpoint's
own. --upgrade makes such a store from one of version 1, or with another layout, without the checkpoint.

--bits-per-weight gives experts 2, 3 or 4 bits each, by what that costs their output: another model, with less to read.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from moe_mlx.commands.bits_arguments import add_bits_arguments, check_bits_arguments, given_lines, giver_of
from moe_mlx.commands.convert_machines import RowsOf, Share, describe, share_out, take_out
from moe_mlx.commands.plan_machines import machine_sizes
from moe_mlx.commands.progress_argument import add_progress_argument
from moe_mlx.errors import UsageError, one_line
from moe_mlx.machines.launched import PIPELINE, TENSOR, WAYS

if TYPE_CHECKING:
    from moe_mlx_convert.proving import Candidate
    from moe_mlx_convert.summary import Summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options, spelled as mlx_lm.convert spells them."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", "--hf-path", dest="hf_path", metavar="SRC", help="folder or hub repository to convert, or demo"
    )
    source.add_argument(
        "--upgrade", metavar="STORE", help="store to convert to version 2, or to another layout of it, beside it"
    )
    parser.add_argument(
        "--mlx-path", metavar="DST", help="folder to make (default: mlx_model; of an upgrade, STORE-v2 beside it)"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    layout = parser.add_argument_group("version 2 of the store")
    layout.add_argument(
        "--nested",
        action="store_true",
        help="the high bits of every expert first, so that a short read is a coarse expert (affine, 4, 6 or 8 bits)",
    )
    layout.add_argument(
        "--row-blocks",
        metavar="N",
        type=_blocks,
        nargs="?",
        const=0,
        default=1,
        help="cut every expert into N blocks of rows, a digest each, for several machines (without N: 16)",
    )
    parser.add_argument(
        "--machines",
        metavar="SIZES",
        help="memory of each of several, rank 0 first (64GB,32GB): say what of the store each needs, and write lists "
        "of files beside the store, or folders with the rows of each (docs/machines.md)",
    )
    parser.add_argument(
        "--parallel",
        choices=WAYS,
        default=PIPELINE,
        help="with --machines: how they will share the model (default: pipeline, by lists; tensor, by folders)",
    )
    layout.add_argument(
        "--replace", action="store_true", help="with --upgrade: the new store, once whole, takes STORE's name and place"
    )
    add_bits_arguments(parser)
    parser.add_argument(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="skip the final comparison of all bytes with the source",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="take a checkpoint whose config names code of its own"
    )
    parser.add_argument(
        "--delete-source-shards",
        action="store_true",
        help="delete each shard of a hub repository from the hub's cache once all of it is in the store: the model "
        "then takes its size on the disk once",
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def _prove(candidate: Candidate, say: Callable[[str], None]) -> frozenset[str]:
    """Asks the loader, which takes seconds to import, once everything cheaper has been asked."""
    from moe_mlx.loading.proof import prove

    return prove(candidate, say)


def _blocks(text: str) -> int:
    """Returns a number of blocks as it was typed; 0, which stands for none typed, is none."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of blocks, from 1")
    return int(text)


def _check(args: argparse.Namespace) -> None:
    """Refuses options that would be without effect."""
    check_bits_arguments(args)
    if args.upgrade is None:
        if args.replace:
            raise UsageError("--replace belongs to --upgrade: a checkpoint is never replaced")
        return
    checkpoints = {
        "--revision": args.revision,
        "--no-compare": not args.compare,
        "--delete-source-shards": args.delete_source_shards,
    }
    for name, given in checkpoints.items():
        if given:
            raise UsageError(f"{name} belongs to --model: an upgrade compares everything with the store as it is")


def _how(summary: Summary) -> str:
    """Returns what of version 2 a store has, in words."""
    words = ["high bits first"] if summary.nested else []
    words += [f"{summary.row_blocks} row blocks"] if summary.row_blocks > 1 else []
    return f"; version {summary.version}: {', '.join(words)}" if words else ""


def run(args: argparse.Namespace) -> int:
    """Converts and prints the summary."""
    from moe_mlx.system.sizes import size_text
    from moe_mlx.system.talk import RowTalk
    from moe_mlx_convert import convert, give_bits, upgrade
    from moe_mlx_convert.destination import unfinished
    from moe_mlx_convert.upgrade import beside

    _check(args)
    sizes = machine_sizes(args.machines) if args.machines else []
    if args.parallel == TENSOR and (not sizes or args.row_blocks == 1):
        raise UsageError("--parallel tensor: give --machines with it, and --row-blocks, for rows are what they share")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path = args.mlx_path or ("mlx_model" if args.upgrade is None else beside(args.upgrade))
    how = {
        "row_blocks": args.row_blocks,
        "say": lambda line: print(f"moe-mlx convert: {one_line(line)}", file=sys.stderr),
        "talk": RowTalk() if args.progress == "json" else None,
    }
    try:
        if args.upgrade is not None:
            summary = upgrade(args.upgrade, args.mlx_path, nested=args.nested, replace=args.replace, **how)
        elif args.bits_per_weight is not None:
            summary = give_bits(
                args.hf_path,
                path,
                giver_of(args, how["say"], how["talk"]),
                revision=args.revision,
                compare=args.compare,
                prove=_prove,
                **how,
            )
        else:
            summary = convert(
                args.hf_path,
                path,
                nested=args.nested,
                revision=args.revision,
                compare=args.compare,
                trust_remote_code=args.trust_remote_code,
                prove=_prove,
                delete_source_shards=args.delete_source_shards,
                **how,
            )
    except KeyboardInterrupt:
        partial = unfinished(path)
        if partial.exists():
            said = f"{partial} keeps what is written; the same command goes on from there"
            print(f"moe-mlx convert: {one_line(said)}", file=sys.stderr)
        raise
    shares: list[Share] | list[RowsOf] = []
    if sizes:
        shares = (take_out if args.parallel == TENSOR else share_out)(Path(summary.destination), sizes)
    if args.json:
        more = {"machines": [asdict(share) for share in shares]} if shares else {}
        print(json.dumps({**summary.as_json(), **more}))
        return 0
    s = summary
    revision = f" at {s.revision}" if s.revision else ""
    copying = s.seconds - s.seconds_compare
    print(one_line(f"{s.source}{revision} -> {s.destination}"))
    print(f"{s.experts} experts in {s.layers} layers, {size_text(s.experts_bytes)}{_how(s)}, built by {s.built_by}")
    if s.given is not None:
        for line in given_lines(s.given):
            print(line)
    print(f"resident weights {size_text(s.resident_bytes)}")
    print(f"{s.files} files, {size_text(s.bytes_written)} in {copying:.1f} s ({s.files_resumed} from an earlier run)")
    if s.compared:
        print(f"every byte compared with the source in {s.seconds_compare:.1f} s")
    else:
        print("NOT compared with the source (--no-compare); `moe-mlx verify` checks it against its own digests")
    if s.method == "arrays":
        print(f"stacked through {s.built_by}, arrays took {size_text(s.peak_array_bytes)} at most")
    print(f"peak memory {size_text(s.peak_memory_bytes)}")
    for line in describe(Path(s.destination), shares) if shares else ():
        print(one_line(line))
    return 0
