"""Download a model from the hub into its local cache. Run again, it goes on after the files that have arrived.

A known name (`moe-mlx list`) stands for its repository. `moe-mlx convert` then makes a miss one checked read.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING

from moe_mlx.commands.progress_argument import add_progress_argument
from moe_mlx.errors import one_line

if TYPE_CHECKING:
    from moe_mlx.catalogue.download import Arrived

#: Seconds between two lines of progress.
_EVERY = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx fetch`."""
    parser.add_argument("model", metavar="MODEL", help="hub repository (owner/name), or a known name")
    parser.add_argument("--revision", help="branch, tag or commit")
    add_progress_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the folder as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Downloads and prints the folder."""
    from moe_mlx.catalogue.download import Download
    from moe_mlx.catalogue.known import known_named
    from moe_mlx.store import is_store

    known = known_named(args.model)
    repo = known.repo if known is not None and args.revision is None else args.model
    shown = _Shown(as_json=args.progress == "json")
    download = Download(repo, args.revision, shown.tell)

    def stop(number: int, frame: FrameType | None) -> None:
        if download.stop.is_set():
            raise KeyboardInterrupt
        download.stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        folder = download.run()
    finally:
        shown.talk.clear()
    form = "store" if is_store(folder) else "checkpoint"
    row = {"model": repo, "folder": str(folder), "form": form}
    print(json.dumps(row) if args.json else one_line(folder))
    return 0


class _Shown:
    """Progress as a line on a terminal's standard error, or as JSON there."""

    def __init__(self, *, as_json: bool) -> None:
        from moe_mlx.system.talk import Talk

        self.talk, self._json, self._at = Talk(), as_json, 0.0
        self._done = 0

    def tell(self, arrived: Arrived) -> None:
        now = time.monotonic()
        if now - self._at < _EVERY and self._done and arrived.done < arrived.total:
            return
        self._at, self._done = now, arrived.done
        if self._json:
            row = {
                "pass": "downloading",
                "done": arrived.done,
                "total": arrived.total,
                "bytes_per_second": arrived.rate,
            }
            print(json.dumps(row), file=sys.stderr, flush=True)
            return
        self.talk.progress(arrived_line(arrived))


def arrived_line(arrived: Arrived) -> str:
    """Returns progress in one line."""
    from moe_mlx.system.sizes import show_bytes

    line = f"{show_bytes(arrived.done)} of {show_bytes(arrived.total)}, {show_bytes(arrived.rate)}/s"
    if (left := arrived.seconds_left) is not None:
        line += f", {int(left) // 60}:{int(left) % 60:02} left"
    return line
