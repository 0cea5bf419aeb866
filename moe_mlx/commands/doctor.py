"""Examine this machine in two or three minutes: what it is, what crossings cost, what decode does, what suits it.

Each part runs in a process of its own under a time limit. What it finds is kept as this machine's calibration, which
`--decode auto`, `--readers auto`, `--prefetch auto`, `--expert-cache auto` and `plan` use. The report is Markdown and
names no person, host or folder: post it as it is.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from moe_mlx.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of Markdown")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the Markdown there too")
    parser.add_argument("--parts", metavar="NAMES", default="", help="some parts, separated by commas (default: all)")
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where the generated model is written meanwhile")
    parser.add_argument("--small", action="store_true", help="small sizes: shows that the parts run, keeps nothing")
    parser.add_argument("--no-keep", action="store_true", help="do not keep what was measured")


def run(args: argparse.Namespace) -> int:
    """Examines, prints, keeps. Exit code 1 where a part failed or was overdue."""
    from moe_mlx.examination.advice import advise
    from moe_mlx.examination.examining import examine, parts_named
    from moe_mlx.examination.part import FAILED, OVERDUE
    from moe_mlx.examination.report import markdown
    from moe_mlx.system.calibration import calibration_path, store_calibration
    from moe_mlx.system.given import words_of
    from moe_mlx.system.machine import describe_machine, machine_line
    from moe_mlx.system.talk import Talk

    if args.report is not None and not args.report.resolve().parent.is_dir():
        raise UsageError(f"--report {args.report}: there is no folder {args.report.parent}")
    parts = parts_named(words_of(args.parts))
    talk = Talk()
    try:
        findings = examine(parts, small=args.small, progress=talk.progress, parent=args.folder)
    finally:
        talk.clear()
    advice = advise(findings)
    report = markdown(findings, advice, small=args.small)
    if args.json:
        print(
            json.dumps(
                {
                    "kind": "moe-mlx doctor",
                    "version": 1,
                    "small": args.small,
                    "parts": [finding.as_dict() for finding in findings],
                    "recommended": list(advice.lines),
                    "calibration": dict(advice.calibration),
                }
            )
        )
    else:
        print(report, end="")
    if args.report is not None:
        try:
            args.report.write_text(report)
        except OSError as error:
            raise UsageError(f"--report {args.report}: {error.strerror}") from None
    if advice.calibration and not (args.small or args.no_keep):
        machine = describe_machine()
        store_calibration(date=machine["date"], machine=machine_line(machine), **advice.calibration)
        talk.say(f"kept in {calibration_path()}")
    bad = [finding for finding in findings if finding.state in (FAILED, OVERDUE)]
    for finding in bad:
        print(f"moe-mlx doctor: {finding.part}: {finding.state}: {finding.reason}", file=sys.stderr)
    return 1 if bad else 0
