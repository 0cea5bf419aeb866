"""Runs an evaluation: the exact reference once, then every setting from an emptied cache, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mlx import nn

from moe_mlx.conversation.keeper import Keeper
from moe_mlx.counts.event_log import DECODE
from moe_mlx.counts.ledger import PHASES, StepRecord
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.errors import DoesNotFitError
from moe_mlx.evaluation.ahead import looking_ahead
from moe_mlx.evaluation.answering import accuracy
from moe_mlx.evaluation.belady import belady_misses
from moe_mlx.evaluation.documents import Task
from moe_mlx.evaluation.easy import EasyTokens
from moe_mlx.evaluation.lifetime import lifetime
from moe_mlx.evaluation.progress import Progress
from moe_mlx.evaluation.reference import Reference
from moe_mlx.evaluation.results import Report, Row
from moe_mlx.evaluation.rounded import Rounded
from moe_mlx.evaluation.scoring import Score, Turns, score, score_reference, vocabulary_of
from moe_mlx.evaluation.setting import WHOLE, Setting
from moe_mlx.evaluation.trace import Recorder
from moe_mlx.evaluation.unwaited import ReadBehind
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.names import AHEAD, EASY, REFUSED, ROUNDED, UNWAITED
from moe_mlx.routing.price import Price, read_quality


@dataclass
class Evaluation:
    """One model, its documents and tasks.

    Attributes:
        model: From `moe_mlx.load`.
        tokenizer: Its tokenizer.
        documents: Tokens, at least two each.
        tasks: Possibly none.
        report: Gets the rows.
        progress: Hears how far it is.
        by_layer: Thresholds of a fit, for the settings that take them.
        against: What another model said of the same tokens, to be compared with instead of this one's exact run.
        turns: Which tokens are answers, for a quality that is held and fixed settings beside it; the report's tokens
            are then those. None: every token is decoded.
    """

    model: nn.Module
    tokenizer: Any
    documents: Sequence[Sequence[int]]
    tasks: Sequence[Task]
    report: Report
    progress: Progress
    by_layer: tuple[float, ...] = ()
    against: Reference | None = None
    turns: Turns | None = None

    def __post_init__(self) -> None:
        self.runtime: Runtime = runtime_of(self.model)
        self.chosen = sum(cache.spec.top_k for cache in self.runtime.layers)  # a token, over layers
        self.choices: list[list[tuple[int, ...]]] = []

    def run(self, settings: Sequence[Setting], trace: Path | None = None) -> None:
        """Measures every setting that the report does not have yet.

        Args:
            settings: In the order to be run.
            trace: Where to write a trace: of the setting if there is one, else of the reference run.

        Raises:
            UsageError: a cap that cannot be read, or a trace of a model whose router is not known.
            DoesNotFitError: a cap below the floor or above what fits, or distributions that find no room.
            ExpertReadError: an expert could not be read.
        """
        sizes = {setting.cache: sum(self.runtime.plan_for(setting.cache).slots) for setting in settings}
        traced = settings[0] if trace is not None and len(settings) == 1 else None
        left = [setting for setting in settings if setting.key not in self.report.rows or setting is traced]
        if self.report.reference is not None and not left and trace is None:
            return
        with (
            self.refer(max(sizes, key=sizes.__getitem__), None if traced else trace)
            if self.against is None
            else nullcontext(self.against)
        ) as reference:
            for setting in left:
                self._measure(setting, reference, trace if setting is traced else None)

    def refer(self, largest: str, trace: Path | None = None) -> Reference:
        """Scores the model by exact routing, resident where it fits, and returns what others are compared with.

        Args:
            largest: The cap where it does not fit.
            trace: Where to write a trace.

        Raises:
            DoesNotFitError, ExpertReadError: as from `run`.
        """
        whole = Setting(WHOLE if self._fits_whole() else largest)
        self.apply(whole)
        reference = Reference(self.report.tokens, vocabulary_of(self.model))
        try:
            self._reference(whole, reference, trace)
        except BaseException:
            reference.close()
            raise
        return reference

    def _fits_whole(self) -> bool:
        """Whether the fully resident run is possible; else the largest cap gives the same, routed exactly."""
        try:
            self.runtime.plan_for(WHOLE)
        except DoesNotFitError:
            return False
        return True

    def apply(self, setting: Setting) -> None:
        """Puts a setting in force, from an emptied cache."""
        runtime = self.runtime
        runtime.set_eviction(setting.evict)
        if setting.light_rule.coarse:
            runtime.set_light_form(setting.form)
        runtime.resize(setting.cache)
        runtime.set_routing(**asdict(setting.settings()))
        if setting.routing in ("pruned", AHEAD, UNWAITED):
            runtime.route_by(setting.policy)
        runtime.light_by(replace(setting.light_rule, by_layer=self.by_layer if setting.fitted else ()))
        runtime.reset()

    def _recorder(self, keep_scores: bool) -> Recorder:
        layers = [(cache.spec.experts, cache.spec.top_k, cache.spec.expert_nbytes) for cache in self.runtime.layers]
        return Recorder(layers, keep_scores)

    def _reference(self, setting: Setting, reference: Reference, trace: Path | None) -> None:
        recorder = self._recorder(trace is not None)
        self.runtime.reset()
        with _Watch(self.runtime, recorder) as watch:
            tick = self.progress.stage(f"{setting.cache} exact, the reference", self.report.tokens, "tokens")
            score_reference(self.model, self.documents, reference, tick, self.turns)
        self.choices = recorder.choices
        if trace is not None:
            self._save(recorder, watch, setting, trace)
        if self.report.reference is None:
            perfect = Score(reference.nll, 0.0, 1.0, 0.0, 0.0)
            self.report.reference = self._row(setting, perfect, watch.totals, watch.lifetime())
            self.report.write()

    def _measure(self, setting: Setting, reference: Reference, trace: Path | None) -> None:
        perfect = Score(reference.nll, 0.0, 1.0, 0.0, 0.0)
        self.apply(setting)
        if setting.routing == "belady":
            self.report.add(setting.key, self._belady(setting, perfect))
            return
        if setting.quality:
            self.report.add(setting.key, self._held(setting, reference))
            return
        if setting.routing == AHEAD:
            self.report.add(setting.key, self._ahead(setting, reference))
            return
        if setting.routing == EASY:
            self.report.add(setting.key, self._easy(setting, reference))
            return
        if setting.routing in REFUSED:
            self.report.add(setting.key, self._refused(setting, reference))
            return
        recorder = self._recorder(keep_scores=True) if trace is not None else None
        with _Watch(self.runtime, recorder) as watch:
            tick = self.progress.stage(f"{setting.cache} {setting.describe}", self.report.tokens, "tokens")
            found = score(self.model, self.documents, reference, tick, turns=self.turns)
        if trace is not None and recorder is not None:
            self._save(recorder, watch, setting, trace)
        row = self._row(setting, found, watch.totals, watch.lifetime())
        self.report.add(setting.key, replace(row, prompt_bytes=watch.prompt_bytes / row.tokens))

    def _refused(self, setting: Setting, reference: Reference) -> Row:
        stage = self.progress.stage(f"{setting.cache} {setting.describe}", self.report.tokens, "tokens")
        behind = ReadBehind(self.runtime.layers)

        def tick(done: int) -> None:
            if setting.routing == UNWAITED:
                behind.after_token()
            stage(done)

        at_levels = Rounded(self.runtime, int(setting.value or 0)) if setting.routing == ROUNDED else nullcontext()
        with _Watch(self.runtime, None) as watch, at_levels:
            found = score(self.model, self.documents, reference, tick, turns=self.turns)
        return self._row(setting, found, watch.totals + behind.totals, watch.lifetime(), ask=False)

    def _held(self, setting: Setting, reference: Reference) -> Row:
        keeper = Keeper(self.model, Price(read_quality(setting.quality)))
        try:
            with _Watch(self.runtime, None) as watch, keeper:
                tick = self.progress.stage(f"{setting.cache} {setting.describe}", self.report.tokens, "tokens")
                found = score(self.model, self.documents, reference, tick, turns=self.turns)
            keeper.settle()
            held = keeper.summary()
        finally:
            keeper.close()
        row = self._row(setting, found, watch.totals, watch.lifetime(), ask=False)
        audit_bytes, prompt_bytes = held.bytes_read / row.tokens, watch.prompt_bytes / row.tokens
        row = replace(row, quality=setting.quality, spent=held.spent)
        return replace(row, audit_bytes=audit_bytes, prompt_bytes=prompt_bytes)

    def _ahead(self, setting: Setting, reference: Reference) -> Row:
        """What was foreseen is not waited for, as if every read arrived in time; read for nothing it counts too."""
        assert setting.value is not None
        tick = self.progress.stage(f"{setting.cache} {setting.describe}", self.report.tokens, "tokens")
        with looking_ahead(self.runtime.layers, int(setting.value)) as ahead, _Watch(self.runtime, None) as watch:
            found = score(self.model, self.documents, reference, tick, turns=self.turns)
        row = self._row(setting, found, watch.totals, watch.lifetime(), ask=False)
        sizes = [cache.spec.expert_nbytes for cache in self.runtime.layers]
        wasted = sum(one.wasted * nbytes for one, nbytes in zip(ahead, sizes, strict=True))
        return replace(
            row,
            blocking=sum(one.waited for one in ahead) / row.tokens,
            waits=sum(one.waits for one in ahead) / row.tokens,
            bytes_per_token=row.bytes_per_token + wasted / row.tokens,
        )

    def _easy(self, setting: Setting, reference: Reference) -> Row:
        """A token that was computed again is one token, and all that was read for it counts."""
        assert setting.value is not None
        tokens = EasyTokens(setting.value)
        self.runtime.route_by(tokens.policy)
        with _Watch(self.runtime, None) as watch:
            tick = self.progress.stage(f"{setting.cache} {setting.describe}", self.report.tokens, "tokens")
            found = score(self.model, self.documents, reference, tick, tokens.call)
        totals = replace(watch.totals, tokens=self.report.tokens)
        row = self._row(setting, found, totals, watch.lifetime(), ask=False)
        return replace(row, redone=tokens.redone / row.tokens)

    def _belady(self, setting: Setting, perfect: Score) -> Row:
        layers = []
        totals = PhaseTotals(tokens=self.report.tokens)
        for cache, choices in zip(self.runtime.layers, self.choices, strict=True):
            spec, slots = cache.spec, cache.table.slots
            misses = np.zeros(len(choices), dtype=np.int64)
            if slots < spec.experts:
                misses = belady_misses(choices, spec.experts, slots)
            missed = int(misses.sum())
            chosen = sum(map(len, choices))
            totals += PhaseTotals(hits=chosen - missed, misses=missed, bytes_read=round(missed * spec.read_nbytes))
            layers.append((misses, slots, spec.experts))
        return self._row(setting, perfect, totals, lifetime(layers), ask=False)

    def _row(self, setting: Setting, found: Score, totals: PhaseTotals, lasted: float, *, ask: bool = True) -> Row:
        right = task_misses = None
        if self.tasks and ask:
            self.runtime.reset()
            tick = self.progress.stage(f"{setting.cache} {setting.describe}", len(self.tasks), "tasks", first=False)
            right = accuracy(self.model, self.tokenizer, self.tasks, tick)
            decode = self.runtime.stats.decode
            task_misses = decode.misses / max(1, decode.tokens * self.chosen)
        return Row(
            cache=setting.cache,
            slots=sum(self.runtime.slots_per_layer),
            routing=setting.routing,
            value=setting.value,
            top_j=setting.top_j,
            evict=setting.evict,
            tokens=found.nll.size,
            ppl=found.ppl,
            ppl_change=found.ppl_change,
            ppl_error=found.ppl_error,
            kl=found.kl,
            agreement=found.agreement,
            miss_rate=totals.misses / max(1, totals.tokens * self.chosen),
            bytes_per_token=totals.bytes_read / max(1, totals.tokens),
            swapped=totals.swapped_share,
            lifetime=lasted,
            accuracy=right,
            task_miss_rate=task_misses,
            tasks=0 if right is None else len(self.tasks),
            light=setting.light,
            beyond=setting.beyond,
            distance=setting.distance,
            fitted=setting.fitted,
            kl_error=found.kl_error,
            blocking=(totals.misses - totals.late) / max(1, totals.tokens),
            waits=totals.read_waits / max(1, totals.tokens),
            late=totals.late / max(1, totals.tokens),
            late_weight=totals.late_weight / max(1, totals.tokens * len(self.runtime.layers)),
            coarse=totals.coarse / max(1, totals.tokens),
            coarse_weight=totals.coarse_weight / max(1, totals.tokens * len(self.runtime.layers)),
            promotions=totals.promotions / max(1, totals.tokens),
            form=setting.form,
        )

    def _save(self, recorder: Recorder, watch: _Watch, setting: Setting, path: Path) -> None:
        totals = watch.totals
        counted = {name: int(getattr(totals, name)) for name in ("tokens", "hits", "misses", "swapped", "bytes_read")}
        slots = self.runtime.slots_per_layer
        recorder.trace(self.report.model, self.report.name, asdict(setting), slots, counted).save(path)


class _Watch:
    """Listens to the steps of one pass: totals, and each layer's misses token by token for the lifetimes."""

    def __init__(self, runtime: Runtime, recorder: Recorder | None) -> None:
        self.runtime, self.recorder = runtime, recorder
        self.totals = PhaseTotals()
        self.prompt_bytes = 0
        self._misses: list[tuple[int, ...]] = []

    def _heard(self, record: StepRecord) -> None:
        if record.phase == PHASES[DECODE]:
            self._misses.append(record.layer_misses)

    def __enter__(self) -> _Watch:
        self.runtime.layers.ledger.listeners.append(self._heard)
        self.runtime.record(self.recorder)
        return self

    def __exit__(self, *exception: object) -> None:
        self.runtime.drain()
        self.runtime.layers.ledger.collect(closing=True)
        self.totals, self.prompt_bytes = self.runtime.stats.decode, self.runtime.stats.prefill.bytes_read
        self.runtime.layers.ledger.listeners.remove(self._heard)
        self.runtime.record(None)

    def lifetime(self) -> float:
        """Mean number of consecutive tokens an expert stayed resident."""
        misses = np.array(self._misses, dtype=np.int64).reshape(-1, len(self.runtime.layers))
        tables = [cache.table for cache in self.runtime.layers]
        return lifetime((misses[:, place], table.slots, table.experts) for place, table in enumerate(tables))
