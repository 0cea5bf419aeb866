"""A bench as a table for people, and as a picture."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill

from moe_mlx.benchmark.compare import Change
from moe_mlx.benchmark.noise import noise
from moe_mlx.benchmark.results import BenchResult, Row, Spread
from moe_mlx.errors import UsageError
from moe_mlx.routing.names import EXACT
from moe_mlx.system.machine import machine_line
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import render, share, stacked

#: A terminal's usual width at a desk; what is wider is stacked.
WIDTH = 120
_WAYS = ("decode", "io", "pages", "prefetch")
_HEADS = (
    "decode\ntok/s",
    "spread",
    "of\nbaseline",
    "prefill\ntok/s",
    "of\nbaseline",
    "hit\nrate",
    "swapped",
    "read a\ntoken",
    "read-\nbacks",
    "cross-\nings",
    "host us\na layer",
    "wait",
    "read us\np50",
    "\np99",
    "peak\nmemory",
    "in page\ncache",
)


def _spread(spread: Spread) -> str:
    return f"{spread.low:.4g}-{spread.high:.4g}"


def bench_table(result: BenchResult) -> str:
    """Returns the whole table with its head lines."""
    model, arguments = result.model, result.arguments
    ways = [_ways(row) for row in result.rows]
    told = [place for place in range(len(_WAYS)) if len({way[place] for way in ways}) > 1]
    same = [f"{name} {ways[0][place]}" for place, name in enumerate(_WAYS) if place not in told]
    keys = ["expert cache", "routing", *(_WAYS[place] for place in told)]
    heads = [*keys, *_HEADS]
    predicted = any(row.predicted_decode_tps is not None for row in result.rows)
    prefetches = any(row.setting.prefetch != "off" for row in result.rows)
    lights = any(row.setting.light != EXACT for row in result.rows)
    coarse = any(row.coarse_per_token or row.promotions_per_token for row in result.rows)
    if lights:
        heads += ["late a\ntoken", "of the\nweight", "blocking\nmisses", "layers\nthat wait", "waits\nsaved"]
    if coarse:
        heads += ["coarse a\ntoken", "of the\nweight", "promoted\na token"]
    if prefetches:
        heads += ["hints\nused", "of\nmisses", "wasted\na token"]
    if predicted:
        heads += ["predicted\ntok/s", "off by"]
    cells = []
    for row, way in zip(result.rows, ways, strict=True):
        s = row.setting
        line = [
            f"{s.expert_cache} ({row.slots_per_layer})",
            s.policy,
            *(way[place] for place in told),
            f"{row.decode_tps.median:.2f}",
            _spread(row.decode_tps),
            share(row.decode_share),
            f"{row.prefill_tps.median:.1f}",
            share(row.prefill_share),
            share(row.hit_rate),
            share(row.swapped_share),
            show_bytes(row.bytes_per_token),
            f"{row.read_backs_per_token:g}",
            str(row.crossings_per_token),
            f"{row.host_us_per_layer:.0f}",
            share(row.wait_share),
            *(f"{us:.0f}" for us in ((row.reads.p50_us, row.reads.p99_us) if row.reads else (0, 0))),
            show_bytes(row.peak_bytes),
            "-" if row.page_cache is None else show_bytes(row.page_cache.nbytes),
        ]
        if lights:
            line += [
                f"{row.late_per_token:.2f}",
                share(row.late_weight),
                f"{row.blocking_per_token:.2f}",
                f"{row.read_waits_per_token:.2f}",
                f"{row.waits_saved_per_token:.2f}",
            ]
        if coarse:
            line += [f"{row.coarse_per_token:.2f}", share(row.coarse_weight), f"{row.promotions_per_token:.2f}"]
        if prefetches:
            line += [share(row.hint_precision), share(row.hint_recall), show_bytes(row.wasted_bytes_per_token)]
        if predicted:
            guess = row.predicted_decode_tps
            line += ["-", "-"] if guess is None else [f"{guess:.2f}", f"{guess / row.decode_tps.median - 1:+.0%}"]
        cells.append(line)
    lines = [
        f"{model['name']}: {model['model_type']}, {model['layers']} layers x {model['experts']} experts, "
        f"top-{model['top_k']}, {show_bytes(model['experts_bytes'])} of experts, a {model['form']}",
        machine_line(result.machine),
        f"prompt {arguments['prompt_tokens']} ({arguments['prompt']}), {arguments['generation_tokens']} generated, "
        f"{arguments['trials']} trials, medians; baseline {result.baseline}",
        *([f"in every row: {', '.join(same)}"] if same else []),
    ]
    tail = []
    if result.baseline != "none":
        tail.append(_baseline_line(result.rows))
    if said := noise(result):
        tail.append(said)
    if unstable := [row.setting.key for row in result.rows if not row.stable]:
        tail.append(f"counts differed between trials of: {', '.join(unstable)}")
    table = stacked(heads, cells, left=len(keys), width=WIDTH)
    return "\n\n".join(["\n".join(fill(line, WIDTH) for line in lines), table, *(fill(line, WIDTH) for line in tail)])


def _ways(row: Row) -> tuple[str, ...]:
    """Returns how decode ran, how experts were read, what the page cache held, and whether it prefetched."""
    s = row.setting
    decode = row.ran if s.decode in ("auto", row.ran) else f"{s.decode} ({row.ran})"
    io = s.io if s.io == row.io_ran else f"{s.io} ({row.io_ran})"
    prefetch = s.prefetch if s.prefetch != "auto" else f"auto ({'on' if row.prefetched else 'off'})"
    return decode, io, s.pages, prefetch


def _baseline_line(rows: tuple[Row, ...]) -> str:
    decode = [row.baseline_decode_tps.median for row in rows if row.baseline_decode_tps]
    prefill = [row.baseline_prefill_tps.median for row in rows if row.baseline_prefill_tps]
    return (
        f"baseline beside each row: decode {min(decode):.2f}-{max(decode):.2f}, "
        f"prefill {min(prefill):.1f}-{max(prefill):.1f} tok/s; shares are medians of alternated pairs"
    )


def compare_table(changes: list[Change]) -> str:
    """Returns the regression check as a table; what got worse is marked by a word."""
    cells = [
        [
            change.key,
            change.figure,
            f"{change.before:.5g}",
            f"{change.after:.5g}",
            f"{change.ratio:.3f}",
            "REGRESSION" if change.worse else "ok",
        ]
        for change in changes
    ]
    return render(["setting", "figure", "before", "after", "ratio", ""], cells, left=2)


def plot(result: BenchResult, path: Path) -> None:
    """Draws decode and prefill speed of every row, the baseline's beside it.

    Raises:
        UsageError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = result.rows
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 1.2 + 0.42 * len(rows)), sharey=True)
    names = [row.setting.key for row in rows]
    for axis, phase in zip(axes, ("decode", "prefill"), strict=True):
        spreads = [getattr(row, f"{phase}_tps") for row in rows]
        errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        axis.barh(names, [s.median for s in spreads], xerr=errors, color="#4477aa", label="moe-mlx")
        for place, row in enumerate(rows):
            if (beside := getattr(row, f"baseline_{phase}_tps")) is not None:
                axis.plot(
                    [beside.median] * 2,
                    [place - 0.4, place + 0.4],
                    color="black",
                    linestyle="--",
                    label=result.baseline if place == 0 else None,
                )
        axis.set_xlabel(f"{phase}, tokens/s")
        axis.set_xlim(left=0)
    axes[0].invert_yaxis()
    axes[0].legend(loc="lower right", fontsize="small")
    figure.suptitle(f"{result.model['name']}\n{machine_line(result.machine)}", fontsize="small")
    figure.tight_layout()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {path}: {error}") from None
    finally:
        pyplot.close(figure)
