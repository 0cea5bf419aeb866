"""`/metrics` for Prometheus: the server's requests, the engine's answers, the expert cache's counters, memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.counts.totals import NAMES, PhaseTotals
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.health import state_of
from moe_mlx.serving.job import Usage
from moe_mlx.serving.service import Service
from moe_mlx.system.memory import read_memory

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class EngineFigures(Collector):
    """Reads the engine when it is asked; nothing is counted twice."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        """Yields everything that has a value now."""
        engine, loaded, kept = self.engine, self.engine.loaded, self.engine.kept
        yield from self._gauges(
            ("up", "1 while answers can be had", float(state_of(engine) == "ok")),
            ("running", "answers under way", engine.running),
            ("waiting", "answers in the queue", engine.waiting),
            ("footprint_bytes", "bytes of this process", read_memory().footprint),
        )
        yield from self._counters(
            ("answered", "answers that ended well", engine.tally.answered),
            ("failed", "answers that failed", engine.tally.failed),
            ("model_changes", "times that another model was loaded", engine.tally.changes),
        )
        if loaded is None or kept is None:
            return
        runtime = loaded.runtime
        if loaded.session is not None:
            yield from _machines(loaded.session.whole.machines())
        yield from self._gauges(
            ("prompt_caches", "prompt caches kept in memory", len(kept)),
            ("prompt_cache_bytes", "bytes of these", kept.nbytes),
            ("planned_bytes", "bytes of the memory plan", runtime.plan.total),
            ("expert_cache_bytes", "bytes of the expert slots", runtime.expert_cache_bytes),
            ("resident_share", "share of the routed experts that have a slot", runtime.resident_share),
        )
        phases = {"decode": runtime.stats.decode, "prefill": runtime.stats.prefill}
        if loaded.session is not None:
            counted = loaded.session.whole.figures()
            phases = {phase: PhaseTotals(**{name: counted[phase][name] for name in NAMES}) for phase in phases}
        for name in NAMES:
            family = CounterMetricFamily(f"moe_mlx_expert_{name}", f"{name} of the expert cache", labels=["phase"])
            for phase, totals in phases.items():
                family.add_metric([phase], float(getattr(totals, name)))
            yield family

    @staticmethod
    def _gauges(*rows: tuple[str, str, float]) -> Iterator[Metric]:
        for name, words, value in rows:
            yield GaugeMetricFamily(f"moe_mlx_{name}", words, value=float(value))

    @staticmethod
    def _counters(*rows: tuple[str, str, float]) -> Iterator[Metric]:
        for name, words, value in rows:
            yield CounterMetricFamily(f"moe_mlx_{name}", words, value=float(value))


def _machines(rows: Iterable[dict[str, Any]]) -> Iterator[Metric]:
    """Yields what each machine has, where several run the model."""
    labels = ["rank", "machine"]
    silent = GaugeMetricFamily("moe_mlx_machine_silent_seconds", "since a machine was heard", labels=labels)
    memory = GaugeMetricFamily("moe_mlx_machine_bytes", "bytes of a machine", labels=[*labels, "what"])
    counts = CounterMetricFamily(
        "moe_mlx_machine_expert", "counters of a machine's expert cache", labels=[*labels, "phase", "what"]
    )
    for row in rows:
        who = [str(row["rank"]), str(row["machine"])]
        silent.add_metric(who, row["silent_seconds"])
        for name in ("footprint", "expert_slots", "planned", "free"):
            memory.add_metric([*who, name], float(row["memory"][name]))
        for phase in ("decode", "prefill"):
            for name in ("hits", "misses", "bytes_read", "wait_seconds"):
                counts.add_metric([*who, phase, name], float(row[phase][name]))
    yield from (silent, memory, counts)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineFigures(engine))
        common: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("moe_mlx_requests", "requests answered", ["path", "status"], **common)
        self.prompt = Counter("moe_mlx_prompt_tokens", "tokens of prompts", ["source"], **common)
        self.tokens = Counter("moe_mlx_generated_tokens", "tokens generated", **common)
        self.first = Histogram("moe_mlx_first_token_seconds", "to the first token", buckets=SECONDS, **common)
        self.queued = Histogram("moe_mlx_queued_seconds", "in the queue", buckets=SECONDS, **common)
        self.seconds = Histogram("moe_mlx_answer_seconds", "to an answer's end", buckets=SECONDS, **common)

    def request(self, path: str, status: int, usages: Iterable[Usage]) -> None:
        """Counts a request that is over; `path` is one of the server's own, so that clients make no labels."""
        self.requests.labels(path, str(status)).inc()
        for usage in usages:
            self.prompt.labels("computed").inc(usage.prompt_tokens - usage.reused_tokens)
            self.prompt.labels("cached").inc(usage.reused_tokens)
            self.tokens.inc(usage.tokens)
            self.first.observe(usage.first_token_seconds)
            self.queued.observe(usage.queued_seconds)
            self.seconds.observe(usage.seconds)


async def answer(request: Request, service: Service) -> Response:
    """Shows all of them."""
    metrics: Metrics = request.app.state.metrics
    return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})
