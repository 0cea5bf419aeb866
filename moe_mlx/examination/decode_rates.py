"""Decode of a generated model under a quarter of its experts, each way, beside mlx-lm with everything resident."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from moe_mlx.benchmark.prompts import random_tokens
from moe_mlx.benchmark.settings import BenchSetting
from moe_mlx.benchmark.trial import Subject, load_mlx_lm, load_setting, run_trial
from moe_mlx.errors import UsageError
from moe_mlx.examination.random_model import checkpoint_and_store
from moe_mlx.routing.names import NATIVE, READBACK

_WAYS = {
    NATIVE: BenchSetting("25%", "exact", None, NATIVE, "cached", "warm"),
    READBACK: BenchSetting("25%", "exact", None, READBACK, "cached", "warm"),
    "prefetch": BenchSetting("25%", "exact", None, NATIVE, "cached", "warm", "on"),
    "direct": BenchSetting("25%", "exact", None, "auto", "direct", "warm"),
    "resident": BenchSetting("100%", "exact", None, "auto", "cached", "warm"),
}


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns tokens a second of each way, medians of alternating trials; None for a way that cannot be had."""
    tokens, trials = (6, 1) if small else (24, 5)
    checkpoint, store = checkpoint_and_store(folder, small=small)
    return rates(checkpoint, store, _WAYS, tokens, trials)


def rates(checkpoint: Path, store: Path, ways: dict[str, BenchSetting], tokens: int, trials: int) -> dict[str, Any]:
    """Returns tokens a second of mlx-lm and of each way; arguments as they are named in `benchmark`."""
    subjects: dict[str, Subject] = {"mlx-lm": load_mlx_lm(checkpoint)}
    reasons: dict[str, str] = {}
    for name, setting in ways.items():
        try:
            subjects[name] = load_setting(store, setting, lambda line: None)
        except UsageError as error:
            reasons[name] = str(error)
    prompt = random_tokens({"vocab_size": 128}, 16)
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for trial in range(-1, trials):
        for name in list(subjects) if trial % 2 else list(subjects)[::-1]:
            tps = run_trial(subjects[name], prompt, tokens, step_size=512).decode_tps
            if trial >= 0:
                found[name].append(tps)
    medians = {name: statistics.median(values) for name, values in found.items()}
    for subject in subjects.values():
        subject.close()
    return {"tokens_per_second": medians, "reasons": reasons, "tokens": tokens, "trials": trials}
