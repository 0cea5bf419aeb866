"""Re-read every file of a store and compare it with the digests in its manifest. Exit code 3 when anything differs."""

from __future__ import annotations

import argparse
import json
import sys

from moe_mlx.errors import StoreCorruptError, one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("store", metavar="STORE", help="folder that `moe-mlx convert` made")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verifies and prints the report."""
    from moe_mlx.system.sizes import size_text
    from moe_mlx_convert import verify

    report = verify(args.store)
    store = one_line(report.store)
    for remark in report.remarks:
        print(f"moe-mlx verify: {one_line(remark)}", file=sys.stderr)
    if args.json:
        print(json.dumps(report.as_json()))
    elif report.ok:
        print(f"{store}: {report.files} files, {size_text(report.bytes)}, every digest as in the manifest")
    else:
        for damage in report.damage:
            print(one_line(damage), file=sys.stderr)
        print(
            f"{store}: {len(report.damage)} of {report.files} files damaged. Convert again.",
            file=sys.stderr,
        )
    return 0 if report.ok else StoreCorruptError.exit_code
