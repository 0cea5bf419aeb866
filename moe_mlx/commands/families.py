"""List every MoE family of mlx-lm, and those that only mlx-vlm has: router, and what the tests run of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_mlx.families.registry import RouterFamily

FOOTNOTE = (
    "tested: bit for bit against the library that builds it, on a CPU, in float32 and quantised, in place and\n"
    'converted. mlx-vlm is an extra: pip install "moe-mlx[vlm]".\n'
    "Experts that a CPU cannot execute (nvfp4 with global scales, unquantised bfloat16) are compared as bytes."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--json", action="store_true", help="the same as JSON, one object a family")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from moe_mlx.families.registry import families
    from moe_mlx.system.table import render

    rows = families()
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    print(
        render(
            ("family", "library", "router", "exact", "cache-aware", "late", "remark"), list(map(_cells, rows)), left=7
        )
    )
    print(f"\n{len(rows)} families. {FOOTNOTE}")
    return 0


def _cells(row: RouterFamily) -> tuple[str, ...]:
    exact = "tested" if row.exact_tested else "as bytes"
    if not row.cache_aware:
        cache_aware = "exact only"
    else:
        cache_aware = "tested" if row.cache_aware_tested else "one block"
    late = "yes" if row.late else f"no: {row.why_waits}"
    return row.family, row.built_by, row.kind, exact, cache_aware, late, row.note
