"""What a bench found: frozen, and the same on disk as in memory."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moe_mlx.benchmark.settings import BenchSetting
from moe_mlx.counts.reads import ReadStats
from moe_mlx.errors import UsageError
from moe_mlx.store.access import CACHED
from moe_mlx.store.page_cache import PageCacheUse

KIND, VERSION = "moe-mlx bench", 1


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the trials: its median, its ends."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sums up values."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, measured. Counts are of one trial (they are alike in all), per decode step.

    Attributes:
        setting: What was measured.
        ran: How decode ran: "native" or "readback".
        decode_tps: Generated tokens a second.
        prefill_tps: Prompt tokens a second.
        baseline_decode_tps: The baseline's, alternated with this setting's trials.
        baseline_prefill_tps: Likewise.
        decode_share: Median over trials of decode speed as a share of the baseline's trial beside it; None without.
        prefill_share: Likewise.
        hit_rate: Of decode.
        swapped_share: Of decode.
        bytes_per_token: Bytes that a decode step read.
        misses_per_token: Experts that a decode step read.
        read_backs_per_token: Layers whose routing was read back to Python.
        crossings_per_token: Arrays that go between the model's stream and the fetches', there and back, counted in the
            built graph; where both have one stream here, as they would be beside a GPU.
        waits_per_token: Times a step waited for the host to choose.
        host_us_per_layer: Microseconds the host took to choose and look up, a token and layer.
        wait_share: Share of decode time in which the step stood still for reads.
        prefill_bytes: Bytes read for the prompt.
        expert_cache_bytes: Bytes of all slots.
        slots_per_layer: Of the first MoE layer.
        peak_bytes: MLX's peak memory in a trial, the baseline's weights taken off, with staging buffers.
        steps: Decode steps of a trial, mlx-lm's look-ahead included.
        stable: Whether the counts of all trials were alike.
        predicted_decode_tps: What `plan` says of this setting; None without a calibration.
        prefetched: Whether decode prefetched.
        hint_precision: Share of the prefetched experts that a step used, in the last trial as the two below: guesses
            race with steps, so they are not alike in all.
        hint_recall: Share of the misses that were prefetched.
        wasted_bytes_per_token: Bytes that a decode step prefetched for nothing; beside `bytes_per_token`.
        io_ran: How experts were read: "cached", "direct" or "dropped".
        reads: Depth and latency of the last trial's reads, prompt and decode.
        page_cache: What the page cache held of the experts after the last trial; None where the system does not tell.
        page_cache_twice: What it held of those that had a slot: the same bytes in memory twice.
        read_waits_per_token: Layers of a decode step that waited for reads before they went on.
        late_per_token: Misses of light experts whose output was added a layer later.
        late_weight: Their share of the weight of all chosen experts.
        coarse_per_token: Light experts that were used at their high bits.
        coarse_weight: Their share of the weight of all chosen experts.
        promotions_per_token: Misses of which only the low bits were read.
        waits_saved_per_token: Layers of a decode step that did not have to wait, because all their misses were late.
    """

    setting: BenchSetting
    ran: str
    decode_tps: Spread
    prefill_tps: Spread
    baseline_decode_tps: Spread | None
    baseline_prefill_tps: Spread | None
    decode_share: float | None
    prefill_share: float | None
    hit_rate: float
    swapped_share: float
    bytes_per_token: float
    misses_per_token: float
    read_backs_per_token: float
    waits_per_token: float
    host_us_per_layer: float
    wait_share: float
    prefill_bytes: int
    expert_cache_bytes: int
    slots_per_layer: int
    peak_bytes: int
    steps: int
    stable: bool
    predicted_decode_tps: float | None = None
    prefetched: bool = False
    hint_precision: float = 0.0
    hint_recall: float = 0.0
    wasted_bytes_per_token: float = 0.0
    io_ran: str = CACHED
    reads: ReadStats | None = None
    page_cache: PageCacheUse | None = None
    page_cache_twice: PageCacheUse | None = None
    crossings_per_token: int = 0
    read_waits_per_token: float = 0.0
    late_per_token: float = 0.0
    late_weight: float = 0.0
    waits_saved_per_token: float = 0.0
    coarse_per_token: float = 0.0
    coarse_weight: float = 0.0
    promotions_per_token: float = 0.0

    @property
    def blocking_per_token(self) -> float:
        """Misses that a layer of a decode step waited for."""
        return self.misses_per_token - self.late_per_token


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole bench.

    Attributes:
        machine: From `describe_machine`.
        model: Its name, form and sizes.
        arguments: What was asked for.
        baseline: "mlx-lm", "moe-mlx 100%" or "none".
        rows: In the order measured.
        skipped: Settings that could not be measured, each with why.
    """

    machine: dict[str, Any]
    model: dict[str, Any]
    arguments: dict[str, Any]
    baseline: str
    rows: tuple[Row, ...]
    skipped: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Returns the form on disk."""
        return {"kind": KIND, "version": VERSION, **asdict(self)}


def read_result(path: Path) -> BenchResult:
    """Reads what `bench --json` wrote.

    Raises:
        UsageError: no such file, or nothing of ours.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as a bench ({error}); write one with `moe-mlx bench --json`"
        ) from None
    if not isinstance(found, dict) or found.get("kind") != KIND or found.get("version") != VERSION:
        raise UsageError(f"{path}: no bench of version {VERSION}; write one with `moe-mlx bench --json`")
    try:
        rows = tuple(_row(row) for row in found["rows"])
        return BenchResult(
            found["machine"], found["model"], found["arguments"], found["baseline"], rows, tuple(found["skipped"])
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path}: a bench that lacks {error}; measure again") from None


def _row(row: dict[str, Any]) -> Row:
    spreads = {
        name: None if row[name] is None else Spread(**row[name])
        for name in ("decode_tps", "prefill_tps", "baseline_decode_tps", "baseline_prefill_tps")
    }
    parts: dict[str, type[ReadStats] | type[PageCacheUse]] = {
        "reads": ReadStats,
        "page_cache": PageCacheUse,
        "page_cache_twice": PageCacheUse,
    }
    made = {name: kind(**row[name]) for name, kind in parts.items() if row.get(name) is not None}
    return Row(**{**row, **spreads, **made, "setting": BenchSetting(**row["setting"])})
