"""Runs a sweep: each setting is loaded, warmed up once, and its trials alternate with the baseline's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from moe_mlx.benchmark.crossings import crossings_per_token
from moe_mlx.benchmark.profile import profiled
from moe_mlx.benchmark.prompts import Tokens, random_tokens, read_prompt_file
from moe_mlx.benchmark.results import BenchResult, Row, Spread
from moe_mlx.benchmark.settings import APART, BenchSetting
from moe_mlx.benchmark.trial import Subject, Trial, load_mlx_lm, load_setting, run_trial
from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx.planning.prediction import Predictor
from moe_mlx.planning.shape import local_shape
from moe_mlx.routing.names import EXACT, NATIVE
from moe_mlx.store import is_store, open_source
from moe_mlx.store.access import CACHED
from moe_mlx.store.page_cache import page_cache_use
from moe_mlx.system.machine import describe_machine
from moe_mlx.system.memory import recommended_bytes

#: Weights take this much of what is free at most, for the baseline to be loaded without being asked for.
_BASELINE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Bench:
    """What to measure.

    Attributes:
        folder: A store or an MLX checkpoint.
        settings: The rows.
        prompt_tokens: As mlx_lm.benchmark's -p.
        generate: As its -g.
        trials: As its -n.
        prompt_file: A text to prefill and decode along, instead of random tokens.
        baseline: "auto", "mlx-lm", "self" or "none".
        baseline_model: A checkpoint for mlx-lm, where `folder` is a store.
        step_size: Prompt tokens at a time.
        options: Passed on to `moe_mlx.load`.
        profile: Whether to list Python time of each setting, in a trial of its own.
    """

    folder: Path
    settings: tuple[BenchSetting, ...]
    prompt_tokens: int
    generate: int
    trials: int
    prompt_file: Path | None
    baseline: str
    baseline_model: Path | None
    step_size: int
    options: dict[str, Any]
    profile: bool = False


def choose_baseline(bench: Bench) -> tuple[str, str]:
    """Returns what to compare with, and why, in words for people.

    Raises:
        UsageError: mlx-lm itself was asked for and cannot load a store.
    """
    if bench.baseline == "none":
        return "none", "no baseline, as asked"
    checkpoint = bench.baseline_model or (None if is_store(bench.folder) else bench.folder)
    if bench.baseline == "self":
        return "moe-mlx 100%", "baseline: moe-mlx with every expert resident"
    if checkpoint is None:
        if bench.baseline == "mlx-lm":
            raise UsageError("mlx-lm cannot load a store: name its checkpoint with --baseline-model")
        why = "mlx-lm cannot load a store; --baseline-model CHECKPOINT compares with mlx-lm itself"
        return "moe-mlx 100%", f"baseline: moe-mlx with every expert resident ({why})"
    weights = local_shape(checkpoint).nbytes
    if bench.baseline == "auto" and weights > _BASELINE_SHARE * recommended_bytes():
        return "none", f"no baseline: {weights / 1e9:.1f} GB of weights do not fit beside the model measured"
    return "mlx-lm", "baseline: mlx-lm itself, every weight resident"


def run_bench(
    bench: Bench, *, say: Callable[[str], None], progress: Callable[[str], None], predictor: Predictor | None = None
) -> BenchResult:
    """Measures every setting.

    Args:
        bench: What to measure.
        say: Gets remarks, one line each.
        progress: Gets what is under way.
        predictor: What grades itself against the figures.

    Raises:
        MoeMlxError: nothing could be measured.
    """
    baseline, why = choose_baseline(bench)
    say(why)
    shape = local_shape(bench.folder)
    with open_source(bench.folder, verify=False) as source:
        model: dict[str, Any] = {
            "name": bench.folder.name,
            "form": "checkpoint" if source.in_place else "store",
            "model_type": source.config.get("model_type"),
            "layers": len(source.layers),
            "experts": source.layers[0].experts,
            "top_k": source.layers[0].top_k,
            "expert_bytes": source.layers[0].expert_nbytes,
            "experts_bytes": source.experts_nbytes,
            "resident_bytes": shape.resident_nbytes,
        }
        tokens = None if bench.prompt_file else random_tokens(source.config, bench.prompt_tokens)
    skipped: list[str] = []
    rows: list[Row] = []
    before = mx.get_active_memory()
    reference = _load_baseline(bench, baseline, progress)
    held = mx.get_active_memory() - before
    for number, setting in enumerate(bench.settings, start=1):
        progress(f"[{number}/{len(bench.settings)}] {setting.key}")
        try:
            subject = load_setting(bench.folder, setting, say, **bench.options)
        except (DoesNotFitError, UsageError) as error:
            may_lack = setting.decode in {NATIVE, APART} or setting.light != EXACT
            if not isinstance(error, DoesNotFitError) and not may_lack:
                raise
            skipped.append(f"{setting.key}: {error}")
            continue
        try:
            if tokens is None:
                assert bench.prompt_file is not None
                tokens = read_prompt_file(bench.prompt_file, subject.tokenizer, bench.prompt_tokens, bench.generate)
            rows.append(_measure(bench, setting, subject, reference, held, tokens, predictor, progress))
            if bench.profile:
                one = partial(
                    run_trial, subject, tokens, bench.generate, step_size=bench.step_size, pages=setting.pages
                )
                say(f"{setting.key}, Python time a token and layer:")
                say(profiled(one, rows[-1].steps, int(model["layers"])))
        finally:
            subject.close()
    for line in skipped:
        say(f"skipped: {line}")
    if not rows:
        raise UsageError("no setting could be measured: " + "; ".join(skipped))
    arguments = {
        "prompt_tokens": len(tokens.prompt) if tokens else bench.prompt_tokens,
        "generation_tokens": bench.generate,
        "trials": bench.trials,
        "prompt": bench.prompt_file.name if bench.prompt_file else "random tokens, seed 0",
        "prefill_step_size": bench.step_size,
    }
    return BenchResult(describe_machine(), model, arguments, baseline, tuple(rows), tuple(skipped))


def _load_baseline(bench: Bench, baseline: str, progress: Callable[[str], None]) -> Subject | None:
    if baseline == "none":
        return None
    progress(f"loading the baseline, {baseline}")
    if baseline == "mlx-lm":
        return load_mlx_lm(bench.baseline_model or bench.folder)
    everything = BenchSetting("100%", "exact", None, "auto", "cached", "warm")
    return load_setting(bench.folder, everything, lambda line: None)


def _measure(
    bench: Bench,
    setting: BenchSetting,
    subject: Subject,
    reference: Subject | None,
    held: int,
    tokens: Tokens,
    predictor: Predictor | None,
    progress: Callable[[str], None],
) -> Row:
    ours: list[Trial] = []
    theirs: list[Trial] = []
    for trial in range(-1, bench.trials):  # the first of each warms up and is not counted
        progress(f"{setting.key}: " + (f"trial {trial + 1} of {bench.trials}" if trial >= 0 else "warming up"))
        order = [(subject, ours), (reference, theirs)] if trial % 2 else [(reference, theirs), (subject, ours)]
        for which, into in order:
            if which is not None:
                found = run_trial(which, tokens, bench.generate, step_size=bench.step_size, pages=setting.pages)
                if trial >= 0:
                    into.append(found)
    runtime = subject.runtime
    assert runtime is not None
    last = ours[-1]
    steps = max(1, last.decode.steps)
    waits = [trial.decode.wait_seconds / (steps / trial.decode_tps) for trial in ours]
    cold = setting.pages != "warm" or runtime.io_way != CACHED
    predicted = None
    if predictor is not None and setting.light == EXACT:  # a forecast adds reads to computing, which late ones overlap
        predicted = predictor.decode_tps(last.decode.misses / steps, cold)
    return Row(
        setting=setting,
        ran=getattr(runtime, "decode_way", "readback"),
        decode_tps=Spread.of([trial.decode_tps for trial in ours]),
        prefill_tps=Spread.of([trial.prefill_tps for trial in ours]),
        baseline_decode_tps=Spread.of([trial.decode_tps for trial in theirs]) if theirs else None,
        baseline_prefill_tps=Spread.of([trial.prefill_tps for trial in theirs]) if theirs else None,
        decode_share=_share([(a.decode_tps, b.decode_tps) for a, b in zip(ours, theirs, strict=bool(theirs))]),
        prefill_share=_share([(a.prefill_tps, b.prefill_tps) for a, b in zip(ours, theirs, strict=bool(theirs))]),
        hit_rate=last.decode.hit_rate,
        swapped_share=last.decode.swapped_share,
        bytes_per_token=last.decode.bytes_read / steps,
        misses_per_token=last.decode.misses / steps,
        read_backs_per_token=last.decode.read_backs / steps,
        waits_per_token=getattr(last.decode, "waits", 0) / steps,
        host_us_per_layer=getattr(last.decode, "host_seconds", 0.0) * 1e6 / steps / len(runtime.layers),
        wait_share=statistics.median(waits),
        prefill_bytes=last.prefill.bytes_read,
        expert_cache_bytes=runtime.expert_cache_bytes,
        slots_per_layer=runtime.slots_per_layer[0],
        peak_bytes=max(trial.peak_bytes for trial in ours)
        - held
        + (runtime.prefetch.nbytes if runtime.prefetch else 0),
        steps=last.decode.steps,
        stable=len({_counts(trial) for trial in ours}) == 1,
        predicted_decode_tps=predicted,
        prefetched=runtime.prefetch is not None,
        hint_precision=last.decode.hint_precision,
        hint_recall=last.decode.hint_recall,
        wasted_bytes_per_token=last.decode.wasted_bytes / steps,
        io_ran=runtime.io_way,
        reads=last.reads,
        page_cache=page_cache_use(runtime.source),
        page_cache_twice=page_cache_use(runtime.source, runtime.resident_experts()),
        crossings_per_token=crossings_per_token(runtime),
        read_waits_per_token=last.decode.read_waits / steps,
        late_per_token=last.decode.late / steps,
        late_weight=last.decode.late_weight / steps / len(runtime.layers),
        waits_saved_per_token=last.decode.waits_saved / steps,
        coarse_per_token=last.decode.coarse / steps,
        coarse_weight=last.decode.coarse_weight / steps / len(runtime.layers),
        promotions_per_token=last.decode.promotions / steps,
    )


def _share(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Median of the trials' own ratios: what disturbs the machine for a while disturbs both of a pair."""
    return statistics.median(a / b for a, b in pairs) if pairs else None


def _counts(trial: Trial) -> tuple[int, ...]:
    decode, prefill = trial.decode, trial.prefill
    light = (decode.late, decode.read_waits, decode.waits_saved, decode.coarse, decode.promotions)
    return (decode.hits, decode.misses, decode.swapped, decode.bytes_read, prefill.misses, prefill.bytes_read, *light)
