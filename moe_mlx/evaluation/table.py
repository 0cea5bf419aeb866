"""Rows for people (a table) and for spreadsheets (CSV)."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from moe_mlx.evaluation.results import Row
from moe_mlx.routing.names import AHEAD, EASY, EXACT
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import render

_HEAD = ("cache", "routing", "evict", "PPL", "change", "KL", "top-1", "miss", "read/token", "swapped", "stay")
#: A token: misses that were waited for, layers that waited, late uses, and their share of the weight.
_LIGHT = ("blocking", "waits", "late", "weight")
#: A token: coarse uses, their share of the weight, and misses of which only the low bits were read.
_COARSE = ("coarse", "weight", "promoted")
#: Of easy tokens: the share that was computed again.
_EASY = ("redone",)
#: Of a quality that was held: what its audits found, what they read a token, and the loss against the budget.
_HELD = ("audited", "for it", "budget")


def show_row(
    row: Row,
    *,
    tasks: bool,
    light: bool = False,
    coarse: bool = False,
    held: bool = False,
    easy: bool = False,
    precise: bool = False,
) -> list[str]:
    """Returns the cells of one row.

    Args:
        row: What was measured.
        tasks: Whether tasks were asked.
        light: Whether what late experts did is among them.
        coarse: The same of coarse experts.
        held: The same of a quality's account.
        easy: The same of tokens that were computed again.
        precise: Whether divergences stand with their errors anyway.
    """
    precise = precise or light or held or easy
    cells = [
        row.cache,
        row.setting.describe,
        "-" if row.routing == "belady" else row.evict,
        f"{row.ppl:.3f}",
        f"{row.ppl_change:+.2%} ±{row.ppl_error:.2%}" if row.kl or row.ppl_change else "0",
        f"{row.kl:.4f}" if not (precise and row.kl) else f"{row.kl:.5f} ±{row.kl_error:.5f}",
        f"{row.agreement:.1%}",
        f"{row.miss_rate:.1%}",
        show_bytes(row.bytes_per_token),
        f"{row.swapped:.1%}",
        f"{row.lifetime:.0f}",
    ]
    if light:
        cells += [f"{row.blocking:.2f}", f"{row.waits:.2f}", f"{row.late:.2f}", f"{row.late_weight:.1%}"]
    if coarse:
        cells += [f"{row.coarse:.2f}", f"{row.coarse_weight:.1%}", f"{row.promotions:.2f}"]
    if held:
        over = row.over_budget
        cells += ["", "", ""] if over is None else [f"{row.spent:.5f}", show_bytes(row.audit_bytes), f"{over:+.0%}"]
    if easy:
        cells.append(f"{row.redone:.1%}")
    if tasks:
        cells.append("" if row.accuracy is None else f"{row.accuracy:.1%}")
    return cells


def results_table(reference: Row, rows: Iterable[Row], *, precise: bool = False) -> str:
    """Returns the table of an evaluation, the fully resident run first; `precise` as in `show_row`."""
    tasks, shown = reference.accuracy is not None, [reference, *rows]
    light = any(row.light != EXACT or row.routing == AHEAD for row in shown)
    easy = any(row.routing == EASY for row in shown)
    coarse = any(row.coarse or row.promotions for row in shown)
    held = any(row.quality for row in shown)
    groups = ((_LIGHT, light), (_COARSE, coarse), (_HELD, held), (_EASY, easy), (("accuracy",), tasks))
    head = [*_HEAD, *(name for names, there in groups if there for name in names)]
    how = {"tasks": tasks, "light": light, "coarse": coarse, "held": held, "easy": easy, "precise": precise}
    return render(head, [show_row(row, **how) for row in shown], left=2)


def write_csv(path: Path, reference: Row, rows: Iterable[Row]) -> None:
    """Writes every field of every row, the fully resident run first."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in (reference, *rows))
