"""Whether a machine was quiet enough for the speeds measured on it to mean something."""

from __future__ import annotations

from moe_mlx.benchmark.results import BenchResult, Spread

#: The baseline does the same work in every trial. When its speeds differ by more than this, so may all others.
MOST_SPREAD = 0.1


def noise(result: BenchResult) -> str | None:
    """Returns what to say of a machine that was too noisy, or None.

    The baseline's trials tell: its fastest and slowest, beside whichever setting. Without a baseline the
    widest of the settings' own.
    """
    baseline = [row.baseline_decode_tps for row in result.rows if row.baseline_decode_tps is not None]
    if baseline:
        whole = Spread.of([end for spread in baseline for end in (spread.low, spread.median, spread.high)])
        whose, held = "the baseline's own trials", "Shares, of trials side by side, hold better than tokens/s. "
    else:
        whole = max((row.decode_tps for row in result.rows), key=_width)
        whose, held = "the trials of one setting", ""
    if _width(whole) <= MOST_SPREAD:
        return None
    return (
        f"TOO NOISY: {whose} ran at {whole.low:.4g}-{whole.high:.4g} tok/s, {_width(whole):.0%} apart. "
        f"{held}Let nothing else run, and give more trials (-n) and more tokens (-g)."
    )


def _width(spread: Spread) -> float:
    return (spread.high - spread.low) / spread.median
