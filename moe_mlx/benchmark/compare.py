"""The regression check: two benches, row by row. Counts are exact; speeds are judged beside their own baselines."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.benchmark.results import BenchResult, Row
from moe_mlx.errors import UsageError


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one row, before and after; `worse` where it lost more than the tolerance."""

    key: str
    figure: str
    before: float
    after: float
    worse: bool

    @property
    def ratio(self) -> float:
        """After as a multiple of before."""
        return self.after / self.before if self.before else (1.0 if not self.after else float("inf"))


#: Figure, whether more of it is better, and the least difference that counts (counts below it are noise of rounding).
_COUNTS = (
    ("hit_rate", True, 0.005),
    ("bytes_per_token", False, 1.0),
    ("blocking_per_token", False, 0.01),
    ("read_backs_per_token", False, 0.01),
    ("peak_bytes", False, 10e6),
)


def parse_tolerance(text: str) -> float:
    """Returns the share in "5%" or "0.05".

    Raises:
        UsageError: it is no share.
    """
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(f"--tolerance {text!r}: give a share such as 5%")
    return value


def compare(before: BenchResult, after: BenchResult, tolerance: float, *, counts_only: bool = False) -> list[Change]:
    """Returns every figure of every row that both have.

    Speeds are compared as shares of the baseline where both have the same kind of one, so that two machines, or one
    machine on two days, can be compared; else in tokens a second.

    Raises:
        UsageError: no row in common.
    """
    old = {row.setting.key: row for row in before.rows}
    pairs = [(old[row.setting.key], row) for row in after.rows if row.setting.key in old]
    if not pairs:
        raise UsageError("the two files have no setting in common: nothing can be compared")
    changes: list[Change] = []
    for first, second in pairs:
        if not counts_only:
            changes += _speeds(first, second, tolerance, before.baseline == after.baseline)
        for figure, more_is_better, least in _COUNTS:
            a, b = float(getattr(first, figure)), float(getattr(second, figure))
            loss = a - b if more_is_better else b - a
            changes.append(Change(first.setting.key, figure, a, b, loss > max(least, tolerance * abs(a))))
    return changes


def _speeds(first: Row, second: Row, tolerance: float, same_baseline: bool) -> list[Change]:
    changes = []
    for phase in ("decode", "prefill"):
        a, b = getattr(first, f"{phase}_share"), getattr(second, f"{phase}_share")
        figure = f"{phase}_share"
        if a is None or b is None or not same_baseline:
            figure = f"{phase}_tps"
            a, b = getattr(first, figure).median, getattr(second, figure).median
        changes.append(Change(first.setting.key, figure, a, b, b < a * (1 - tolerance)))
    return changes
