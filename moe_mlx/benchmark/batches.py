"""Decode of several rows at once by mlx-lm's own batching: in the graph, read back, and with everything resident."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.generate import BatchGenerator

from moe_mlx.benchmark.prompts import vocabulary_size
from moe_mlx.benchmark.settings import BenchSetting
from moe_mlx.benchmark.trial import Subject, load_mlx_lm, load_setting
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.errors import MoeMlxError
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.names import NATIVE, READBACK
from moe_mlx.store.json_files import read_config
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import render

RESIDENT = "mlx-lm"
#: Tokens of each row's prompt: enough for rows to differ.
PROMPT_TOKENS = 24


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One number of rows, decoded one way.

    Attributes:
        rows: Rows of the batch.
        way: "native", "readback", or "mlx-lm" with every weight resident.
        tps: Tokens a second of all rows together, the median of the trials.
        share: Of mlx-lm's in the same run; None where it was not run.
        bytes_a_token: Read from disk or page cache; 0 of mlx-lm.
        experts_a_token: Reads of experts.
        read_backs_a_step: Layers that were read back to Python in a step.
    """

    rows: int
    way: str
    tps: float
    share: float | None
    bytes_a_token: float
    experts_a_token: float
    read_backs_a_step: float

    def as_json(self) -> dict[str, Any]:
        """Returns it as a dict."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class BatchBench:
    """What is measured.

    Attributes:
        folder: Store or checkpoint.
        whole: Checkpoint for mlx-lm; None where it cannot be had.
        cap: The expert cache.
        sizes: Rows of the batches.
        tokens: Decode steps of each trial.
        trials: Of each size and way, the ways taking turns.
    """

    folder: Path
    whole: Path | None
    cap: str
    sizes: tuple[int, ...]
    tokens: int
    trials: int


@dataclass
class _Run:
    seconds: float
    totals: PhaseTotals
    said: list[tuple[int, ...]]


def run_batches(bench: BatchBench, say: Callable[[str], None]) -> list[BatchRow]:
    """Measures every size each way; all ways have to say the same.

    Args:
        bench: What to measure.
        say: Gets a line before each size.

    Raises:
        MoeMlxError: two ways did not say the same.
    """
    subjects = {way: _load(bench, way, say) for way in (RESIDENT, NATIVE, READBACK) if _can(bench, way)}
    vocabulary = vocabulary_size(read_config(bench.folder))
    found: list[BatchRow] = []
    try:
        for size in bench.sizes:
            say(f"{size} row{'s' if size > 1 else ''} at once ...")
            runs: dict[str, list[_Run]] = {way: [] for way in subjects}
            for _ in range(bench.trials):
                for way, subject in subjects.items():
                    runs[way].append(_trial(subject, _prompts(size, vocabulary), bench.tokens))
            if len({tuple(run.said) for of_way in runs.values() for run in of_way}) > 1:
                raise MoeMlxError(f"{bench.folder.name}: {size} rows did not say the same each way: report this")
            found += _rows(size, runs, bench.tokens)
    finally:
        for subject in subjects.values():
            subject.close()
    return found


def _can(bench: BatchBench, way: str) -> bool:
    return way != RESIDENT or bench.whole is not None


def _load(bench: BatchBench, way: str, say: Callable[[str], None]) -> Subject:
    if way == RESIDENT:
        assert bench.whole is not None
        return load_mlx_lm(bench.whole)
    return load_setting(bench.folder, BenchSetting(bench.cap, "exact", None, way, "cached", "warm"), say)


def _prompts(size: int, vocabulary: int) -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, vocabulary, PROMPT_TOKENS).tolist() for _ in range(size)]


def _trial(subject: Subject, prompts: Sequence[list[int]], tokens: int) -> _Run:
    """Decodes `tokens` steps of all rows after their prompts; only whole steps of all of them are timed."""
    runtime = subject.runtime
    if runtime is not None:
        runtime.reset()
    batch = BatchGenerator(subject.model, completion_batch_size=len(prompts), prefill_batch_size=1)
    said: dict[int, list[int]] = {}
    batch.insert([list(prompt) for prompt in prompts], [1 << 30] * len(prompts))

    def step() -> int:
        drawn = batch.next_generated()
        for response in drawn:
            said.setdefault(response.uid, []).append(int(response.token))
        return len(drawn)

    while step() < len(prompts):
        pass
    before = _totals(runtime)
    started = time.perf_counter()
    for _ in range(tokens):
        step()
    mx.synchronize()
    seconds = time.perf_counter() - started
    totals = _totals(runtime) - before
    batch.close()
    return _Run(seconds, totals, [tuple(said[uid]) for uid in sorted(said)])


def _totals(runtime: Runtime | None) -> PhaseTotals:
    """Both phases together: a single row is a decode step, a batch's counts as prefill."""
    if runtime is None:
        return PhaseTotals()
    runtime.drain()
    runtime.layers.ledger.collect(closing=True)
    return runtime.stats.decode + runtime.stats.prefill


def _rows(size: int, runs: dict[str, list[_Run]], tokens: int) -> list[BatchRow]:
    tps = {way: size * tokens / median(run.seconds for run in of_way) for way, of_way in runs.items()}
    rows = []
    for way, of_way in runs.items():
        totals = of_way[0].totals
        steps = max(1, totals.steps)  # a step that runs ahead is in both
        rows.append(
            BatchRow(
                rows=size,
                way=way,
                tps=tps[way],
                share=tps[way] / tps[RESIDENT] if RESIDENT in tps else None,
                bytes_a_token=totals.bytes_read / (steps * size),
                experts_a_token=totals.misses / (steps * size),
                read_backs_a_step=totals.read_backs / steps,
            )
        )
    return rows


def batch_table(rows: Sequence[BatchRow]) -> str:
    """Returns the rows for people."""
    heads = ["rows", "decode", "tok/s", "of mlx-lm", "bytes\na token", "experts\na token", "read-backs\na step"]
    cells = [
        [
            str(row.rows),
            row.way,
            f"{row.tps:.1f}",
            "-" if row.share is None else f"{row.share:.1%}",
            show_bytes(row.bytes_a_token),
            f"{row.experts_a_token:.2f}",
            f"{row.read_backs_a_step:.1f}",
        ]
        for row in rows
    ]
    return render(heads, cells, left={1})
