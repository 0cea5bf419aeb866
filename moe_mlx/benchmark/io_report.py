"""`bench io` as a table."""

from __future__ import annotations

from collections.abc import Sequence

from moe_mlx.benchmark.disk import LOADED, PLAIN, IoRow
from moe_mlx.system.table import render, share


def io_table(rows: Sequence[IoRow]) -> str:
    """Returns the table: each way beside plain preadv by as many threads, and beside mx.load where it was measured."""
    plain = {(row.io, row.cold, row.threads): row.rate.median for row in rows if row.method == PLAIN}
    loaded = {row.cold: row.rate.median for row in rows if row.method == LOADED}
    cells = []
    for row in rows:
        beside = plain.get((row.io, row.cold, row.threads))
        against = loaded.get(row.cold)
        cells.append(
            [
                row.io,
                "cold" if row.cold else "warm",
                row.method,
                str(row.threads),
                f"{row.rate.median / 1e9:.2f}",
                f"{row.rate.low / 1e9:.2f}-{row.rate.high / 1e9:.2f}",
                share(row.rate.median / beside if beside and row.method not in (PLAIN, LOADED) else None, 0),
                f"{row.rate.median / against:.2f}x" if against and row.method not in (PLAIN, LOADED) else "-",
                f"{row.event_ms[0]:.2f}",
                f"{row.event_ms[1]:.2f}",
                share(row.page_cache, 0),
            ]
        )
    heads = [
        "io",
        "pages",
        "way",
        "threads",
        "GB/s",
        "spread",
        "of plain\npreadv",
        "of\nmx.load",
        "ms an event:\nmedian",
        "\n95th",
        "in page\ncache",
    ]
    return render(heads, cells, left=3)
