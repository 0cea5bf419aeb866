"""List every MoE family of mlx-lm, and those that only mlx-vlm has: router, and what the tests run of it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moe_mlx.families.registry import RouterFamily

HEAD = ("family", "library", "router", "exact", "cache-aware", "native", "pictures")
FOOTNOTE = (
    "tested: bit for bit against the library that builds it, on a CPU, in float32 and quantised, in place and\n"
    'converted. mlx-vlm is an extra: pip install "moe-mlx[vlm]".\n'
    "Experts that a CPU cannot execute (nvfp4 with global scales, unquantised bfloat16) are compared as bytes.\n"
    "native: decode in the graph. pictures: an image prompt gives mlx-vlm's tokens; a family of mlx-lm is built by\n"
    "mlx-vlm for it, from the same checkpoint or store."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the same as JSON, one object a family")
    form.add_argument("--markdown", action="store_true", help="the same as a page of Markdown (docs/families.md)")


def run(args: argparse.Namespace) -> int:
    """Prints the table."""
    from moe_mlx.families.registry import families
    from moe_mlx.system.table import render

    rows = families()
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    if args.markdown:
        print(page(rows))
        return 0
    print(render((*HEAD, "late", "remark"), [(*_cells(row), _late(row), row.note) for row in rows], left=9))
    print(f"\n{len(rows)} families. {FOOTNOTE}")
    return 0


def page(rows: list[RouterFamily]) -> str:
    """Returns the table as Markdown: what docs/families.md is."""
    lines = [(*HEAD, "remark"), ("---",) * (len(HEAD) + 1), *((*_cells(row), row.note) for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Families\n\nPrinted by `moe-mlx families --markdown`.\n\n{table}\n\n{len(rows)} families. {FOOTNOTE}"


def _cells(row: RouterFamily) -> tuple[str, ...]:
    exact = "tested" if row.exact_tested else "as bytes"
    if not row.cache_aware:
        cache_aware = "exact only"
    else:
        cache_aware = "tested" if row.cache_aware_tested else "one block"
    native = "tested" if row.native else "not tested"
    return row.family, row.built_by, row.kind, exact, cache_aware, native, row.pictures or "-"


def _late(row: RouterFamily) -> str:
    return "yes" if row.late else f"no: {row.why_waits}"
