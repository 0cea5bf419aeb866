"""One trial: mlx-lm's own generation loop over a model, timed by it, with our counts beside."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm import stream_generate

from moe_mlx.benchmark.prompts import Tokens
from moe_mlx.benchmark.settings import APART, BenchSetting
from moe_mlx.counts.reads import ReadStats
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.errors import UsageError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.light_remark import why_no_effect
from moe_mlx.loading.loader import load
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.names import NATIVE
from moe_mlx.store import ExpertSource
from moe_mlx.store.files import drop_pages, open_regular


@dataclass(frozen=True, slots=True)
class Trial:
    """What one run of the loop took."""

    decode_tps: float
    prefill_tps: float
    peak_bytes: int
    decode: PhaseTotals = field(default_factory=PhaseTotals)
    prefill: PhaseTotals = field(default_factory=PhaseTotals)
    reads: ReadStats | None = None


@dataclass
class Subject:
    """A loaded model to be timed; `runtime` is None for mlx-lm's own."""

    model: nn.Module
    tokenizer: Any
    runtime: Runtime | None

    def close(self) -> None:
        """Ends readers and lets go of the weights."""
        if self.runtime is not None:
            self.runtime.close()
        self.model, self.runtime = nn.Module(), None
        gc.collect()  # a runtime and its layers know each other
        mx.clear_cache()


def load_setting(folder: Path, setting: BenchSetting, say: Callable[[str], None], **options: Any) -> Subject:
    """Loads a model as a setting says.

    Raises:
        MoeMlxError: as `moe_mlx.load`.
        UsageError: this model's light experts can do nothing but wait.
    """
    options |= {
        "decode": NATIVE if setting.decode == APART else setting.decode,
        "io": setting.io,
        "prefetch": setting.prefetch,
        "light": setting.light,
        "light_beyond": setting.beyond,
        "light_distance": setting.distance,
    }
    if setting.route_lambda is not None:
        options["route_lambda"] = setting.route_lambda
    model, tokenizer = load(folder, expert_cache=setting.expert_cache, routing=setting.routing, say=say, **options)
    runtime = runtime_of(model)
    if why := why_no_effect(runtime, runtime.routing.light_rule):
        runtime.close()
        raise UsageError(f"--light has no effect on this model: {why}")
    if setting.decode == APART and runtime.layers.native is not None:
        runtime.layers.native.streams.apart = True
    return Subject(model, tokenizer, runtime)


def load_mlx_lm(folder: Path) -> Subject:
    """Loads a checkpoint with mlx-lm itself, every weight resident."""
    import mlx_lm

    model, tokenizer = mlx_lm.load(str(folder))[:2]
    mx.eval(model.parameters())
    return Subject(model, tokenizer, None)


class _Forced:
    """A sampler that leads decode along given tokens; it still waits for the model's own choice."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self._tokens: Iterator[int] = iter(tokens)

    def __call__(self, logprobs: mx.array) -> mx.array:
        chosen = mx.argmax(logprobs, axis=-1)
        return chosen * 0 + next(self._tokens)


class _Dropper:
    """Empties the page cache of a model's experts between two tokens, and knows how long that took."""

    def __init__(self, source: ExpertSource) -> None:
        files = {
            span.path
            for layer in source.layers
            for e in range(layer.experts)
            for span in source.byte_ranges(layer.index, e)
        }
        self._open: list[int] = []
        self.seconds = 0.0
        try:
            self._open += (open_regular(path) for path in sorted(files))
        except OSError as error:
            self.close()
            raise UsageError(f"--page-cache dropped holds {len(files)} files open: {error.strerror}") from None

    def drop(self) -> None:
        """Asks the system to forget every expert."""
        started = time.perf_counter()
        for fd in self._open:
            drop_pages(fd)
        self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """Closes the files."""
        for fd in self._open:
            os.close(fd)
        self._open.clear()


def run_trial(subject: Subject, tokens: Tokens, generate: int, *, step_size: int, pages: str = "warm") -> Trial:
    """Prefills and decodes once, from an empty cache.

    Args:
        subject: What to time.
        tokens: Prompt, and what decode is led along.
        generate: Tokens to decode; an end-of-sequence token does not end it.
        step_size: Prompt tokens at a time.
        pages: The page cache, as `BenchSetting.pages`; dropping it between tokens is not counted as decoding.

    Raises:
        UsageError: decode ended early.
    """
    runtime = subject.runtime
    dropper = None
    if runtime is not None:
        runtime.reset()
        if pages != "warm":
            runtime.source.drop_cached()
        dropper = _Dropper(runtime.source) if pages == "dropped" else None
    mx.clear_cache()
    mx.reset_peak_memory()
    subject.tokenizer._eos_token_ids = set()
    sampler = _Forced(tokens.forced) if tokens.forced else None
    last = None
    seconds = 0.0
    try:
        for response in stream_generate(
            subject.model,
            subject.tokenizer,
            list(tokens.prompt),
            max_tokens=generate,
            prefill_step_size=step_size,
            sampler=sampler,
        ):
            last = response
            seconds = response.generation_tokens / response.generation_tps
            if dropper is not None:
                seconds -= dropper.seconds
                dropper.drop()
    finally:
        if dropper is not None:
            dropper.close()
    if last is None or last.generation_tokens != generate:
        raise UsageError(f"decode ended after {0 if last is None else last.generation_tokens} of {generate} tokens")
    if runtime is None:
        mx.synchronize()
        return Trial(generate / seconds, last.prompt_tps, mx.get_peak_memory())
    runtime.drain()
    runtime.layers.ledger.collect(closing=True)
    stats = runtime.stats
    return Trial(generate / seconds, last.prompt_tps, mx.get_peak_memory(), stats.decode, stats.prefill, stats.reads)
