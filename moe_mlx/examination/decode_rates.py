"""Decode of a generated model under a quarter of its experts, each way, beside mlx-lm with everything resident."""

from __future__ import annotations

import statistics
import time
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
#: After so much of the part's time no model is loaded and no round of trials begins.
_SECONDS = 150.0


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns tokens a second of each way, medians of alternating trials, and why a way has none."""
    deadline = time.monotonic() + _SECONDS
    tokens, trials = (6, 1) if small else (24, 5)
    checkpoint, store = checkpoint_and_store(folder, small=small)
    return rates(checkpoint, store, tokens, trials, deadline)


def rates(checkpoint: Path, store: Path, tokens: int, trials: int, deadline: float) -> dict[str, Any]:
    """Returns tokens a second of mlx-lm and of each way, and how many of the trials were done.

    The first round warms up; where the time is over after it, it is what there is, and no trial was done.

    Args:
        checkpoint: For mlx-lm.
        store: For each way.
        tokens: Decoded in a trial.
        trials: Of each way, if there is time.
        deadline: By `time.monotonic`; no round begins after it.
    """
    subjects: dict[str, Subject] = {"mlx-lm": load_mlx_lm(checkpoint)}
    reasons: dict[str, str] = {}
    for name, setting in _WAYS.items():
        if time.monotonic() > deadline:
            reasons[name] = "no time was left to load it"
            continue
        try:
            subjects[name] = load_setting(store, setting, lambda line: None)
        except UsageError as error:
            reasons[name] = str(error)
    prompt = random_tokens({"vocab_size": 128}, 16)
    found: dict[str, list[float]] = {name: [] for name in subjects}
    done = -1
    while done < trials and (done < 0 or time.monotonic() <= deadline):
        for name in list(subjects) if done % 2 else list(subjects)[::-1]:
            found[name].append(run_trial(subjects[name], prompt, tokens, step_size=512).decode_tps)
        done += 1
    medians = {name: statistics.median(values[1:] or values) for name, values in found.items()}
    for subject in subjects.values():
        subject.close()
    return {
        "tokens_per_second": medians,
        "rounds": {name: values[1:] for name, values in found.items()},
        "reasons": reasons,
        "tokens": tokens,
        "trials": done,
        "asked_trials": trials,
    }
