"""Aligned tables for terminals and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def render(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int | Collection[int] = 1) -> str:
    """Returns a table with columns as wide as their widest cell.

    Args:
        heads: Column titles; a newline in one makes the head two lines tall.
        rows: Cells, as text.
        left: How many leading columns are aligned to the left, or which; the others are numbers.
    """
    words = range(left) if isinstance(left, int) else left
    tall = max(head.count("\n") for head in heads) + 1
    lines = [[""] * (tall - head.count("\n") - 1) + head.split("\n") for head in heads]
    titles = [[column[line] for column in lines] for line in range(tall)]
    everything = [*titles, *(list(row) for row in rows)]
    widths = [max(len(row[place]) for row in everything) for place in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            f"{cell:<{width}}" if place in words else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([*map(line, titles), rule, *map(line, everything[tall:])])


def stacked(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, width: int) -> str:
    """Returns a table too wide for `width` as several below each other, each beginning with the same `left` columns."""
    tables: list[str] = []
    keys = range(left)
    here: list[int] = []

    def drawn(numbers: Sequence[int]) -> str:
        picked = [*keys, *numbers]
        return render([heads[n] for n in picked], [[row[n] for n in picked] for row in rows], left=left)

    for number in range(left, len(heads)):
        if here and max(map(len, drawn([*here, number]).splitlines())) > width:
            tables.append(drawn(here))
            here = []
        here.append(number)
    return "\n\n".join([*tables, drawn(here)])


def rate(nbytes_per_second: float) -> str:
    """Returns a transfer rate: "1.42 GB/s"."""
    return f"{nbytes_per_second / 1e9:.2f} GB/s"


def share(value: float | None, digits: int = 1) -> str:
    """Returns a share in percent, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}%}"
