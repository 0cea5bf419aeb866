"""Reshard an MLX mixture-of-experts checkpoint into one file per expert, so that a miss is one read.

Bytes are copied, not decoded: every dtype and quantisation stays as it is. The folder appears under its name when it is
whole; until then it is MLX_PATH.partial, and running the same command again resumes it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from moe_mlx.commands.progress_argument import add_progress_argument
from moe_mlx.errors import one_line

if TYPE_CHECKING:
    from moe_mlx_convert.proving import Candidate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options, spelled as mlx_lm.convert spells them."""
    parser.add_argument(
        "--model",
        "--hf-path",
        dest="hf_path",
        metavar="SRC",
        required=True,
        help="folder or hub repository to convert, or demo",
    )
    parser.add_argument("--mlx-path", metavar="DST", default="mlx_model", help="folder to make (default: mlx_model)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub repository")
    parser.add_argument(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="skip the final comparison of all bytes with the source",
    )
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="take a checkpoint whose config names code of its own"
    )
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def _prove(candidate: Candidate, say: Callable[[str], None]) -> frozenset[str]:
    """Asks the loader, which takes seconds to import, once everything cheaper has been asked."""
    from moe_mlx.loading.proof import prove

    return prove(candidate, say)


def run(args: argparse.Namespace) -> int:
    """Converts and prints the summary."""
    from moe_mlx.system.sizes import size_text
    from moe_mlx.system.talk import RowTalk
    from moe_mlx_convert import convert
    from moe_mlx_convert.destination import unfinished

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        summary = convert(
            args.hf_path,
            args.mlx_path,
            revision=args.revision,
            compare=args.compare,
            trust_remote_code=args.trust_remote_code,
            say=lambda line: print(f"moe-mlx convert: {one_line(line)}", file=sys.stderr),
            talk=RowTalk() if args.progress == "json" else None,
            prove=_prove,
        )
    except KeyboardInterrupt:
        partial = unfinished(args.mlx_path)
        if partial.exists():
            said = f"{partial} keeps what is written; the same command goes on from there"
            print(f"moe-mlx convert: {one_line(said)}", file=sys.stderr)
        raise
    if args.json:
        print(json.dumps(summary.as_json()))
        return 0
    s = summary
    revision = f" at {s.revision}" if s.revision else ""
    copying = s.seconds - s.seconds_compare
    print(one_line(f"{s.source}{revision} -> {s.destination}"))
    print(f"{s.experts} experts in {s.layers} layers, {size_text(s.experts_bytes)}")
    print(f"resident weights {size_text(s.resident_bytes)}")
    print(f"{s.files} files, {size_text(s.bytes_written)} in {copying:.1f} s ({s.files_resumed} from an earlier run)")
    if s.compared:
        print(f"every byte compared with the source in {s.seconds_compare:.1f} s")
    else:
        print("NOT compared with the source (--no-compare); `moe-mlx verify` checks it against its own digests")
    if s.method == "arrays":
        print(f"stacked through mlx-lm, arrays took {size_text(s.peak_array_bytes)} at most")
    print(f"peak memory {size_text(s.peak_memory_bytes)}")
    return 0
