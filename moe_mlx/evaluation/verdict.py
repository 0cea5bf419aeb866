"""What an evaluation says in one line: what saves most among the settings that cost little; and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence

from moe_mlx.evaluation.results import Row
from moe_mlx.history.verdicts import Verdict
from moe_mlx.routing.names import EXACT, LIGHTS, POLICIES

#: KL a token, in nats, up to which a setting is said to cost little.
LITTLE = 0.005


def judged(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that say what a setting of the runtime costs: lossy ones, whose routing stayed."""
    offered = (row for row in rows if row.routing in POLICIES and row.light in LIGHTS and not row.quality)
    return [row for row in offered if row.routing != EXACT or row.light != EXACT]


def verdict_of(row: Row) -> Verdict:
    """Returns what a row says of its setting, to be kept with the model."""
    policy = row.routing if row.value is None else f"{row.routing} {row.value:g}"
    light = (row.light, row.beyond, row.distance)
    return Verdict(*light, policy, row.cache, row.tokens, row.kl, row.ppl_change, row.agreement, row.form)


def verdicts_of(rows: Sequence[Row]) -> list[Verdict]:
    """Returns what is kept of an evaluation; settings with a J or thresholds of their own are not."""
    return [verdict_of(row) for row in judged(rows) if row.top_j is None and not row.fitted]


def verdict_lines(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each cap that a lossy setting was measured at."""
    lines = []
    for cache in dict.fromkeys(row.cache for row in rows):
        tried = [row for row in judged(rows) if row.cache == cache]
        if not tried:
            continue
        if cheap := [row for row in tried if row.kl <= LITTLE]:
            best = min(cheap, key=lambda row: (row.bytes_per_token, row.blocking, row.kl))
            lines.append(
                f"verdict at {cache}: {best.setting.describe} costs little ({_loss(best)}){_saved(best, rows)}"
            )
        else:
            least = min(tried, key=lambda row: row.kl)
            lines.append(
                f"verdict at {cache}: nothing that was tried costs little, the least is {least.setting.describe} "
                f"({_loss(least)}): --routing exact keeps the model as it is, --quality 0.01 names a price"
            )
    return lines


def _loss(row: Row) -> str:
    return f"KL {row.kl:.2g} ± {row.kl_error:.1g}, {row.agreement:.1%} of tokens alike"


def _saved(row: Row, rows: Sequence[Row]) -> str:
    """What a row reads and waits less than exact routing at its cap, where that was measured too."""
    exact = next(
        (one for one in rows if one.cache == row.cache and one.routing == one.light == EXACT and not one.quality), None
    )
    if exact is None or not exact.bytes_per_token or not exact.blocking:
        return ""
    read, wait = 1 - row.bytes_per_token / exact.bytes_per_token, 1 - row.blocking / exact.blocking
    return f", reads {read:.0%} less than exact routing and waits for {wait:.0%} fewer experts"
