"""Reads a session's counters and memory into the fields of a snapshot. Engine side."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mlx.conversation.context import context_tokens
from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.drafting.counts import DraftCounts
from moe_mlx.system.memory import MemoryReading, read_memory
from moe_mlx_tui.attached.states import States, facts_of, machines_of, totals_of
from moe_mlx_tui.engine.cell_sampler import CellSampler
from moe_mlx_tui.engine.snapshot import DECODE, PREFILL, Memory, ModelFacts, Snapshot

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Session
    from moe_mlx.conversation.whole_model import WholeModel

#: Seconds that tokens a second are averaged over, and between two looks at the system's memory.
WINDOW, MEMORY_EVERY = 2.0, 1.0


def whole_of(session: Session) -> WholeModel | None:
    """Returns the model over all machines that run it; None where one does."""
    from moe_mlx.conversation.leading import LeadingSession  # with MLX, which the session has brought

    return session.whole if isinstance(session, LeadingSession) else None


class GaugeReader:
    """Everything of a snapshot that is measured."""

    def __init__(self, session: Session) -> None:
        from moe_mlx.conversation.keeper import Keeper  # with MLX, which the session has brought

        self._keeper = session.auditor if isinstance(session.auditor, Keeper) else None
        self.session, self.runtime = session, session.runtime
        self._cells = CellSampler(self.runtime)
        #: The model over all machines that run it, where several do.
        self._whole = whole_of(session)
        self._states = None if self._whole is None else States(facts_of(self._named(self._whole.facts())))
        self._recent: deque[tuple[float, int]] = deque()
        self._memory: MemoryReading = read_memory()
        self._memory_at = 0.0
        self._mlx = (0, 0, 0)
        self.begin()

    def _named(self, facts: dict[str, Any]) -> dict[str, Any]:
        return {**facts, "name": "", "family": str(self.runtime.config.get("model_type", ""))}

    def facts(self, args: argparse.Namespace) -> ModelFacts:
        """Returns what does not change about the model."""
        layers, tokenizer = self.runtime.source.layers, self.session.tokenizer
        thinking = ("<think>", "</think>")
        if tokenizer.has_thinking:
            thinking = (tokenizer.think_start, tokenizer.think_end)
        tools = ("<tool_call>", "</tool_call>")
        if tokenizer.has_tool_calling and tokenizer.tool_call_start and tokenizer.tool_call_end:
            tools = (tokenizer.tool_call_start, tokenizer.tool_call_end)
        found = ModelFacts(
            name=Path(str(args.model)).name,
            family=str(self.runtime.config.get("model_type", "")),
            experts=tuple(layer.experts for layer in layers),
            top_k=tuple(layer.top_k for layer in layers),
            expert_bytes=tuple(layer.expert_nbytes for layer in layers),
            thinking=thinking,
            tools=tools,
            model=str(args.model),
            context=context_tokens(self.runtime.config) or 0,
        )
        if self._states is None:
            return found
        all_of = self._states.facts
        return replace(
            found, experts=all_of.experts, top_k=all_of.top_k, expert_bytes=all_of.expert_bytes, ranks=all_of.ranks
        )

    def begin(self) -> None:
        """Notes where an answer's counts begin."""
        drafting = self.session.drafting
        self._decode, self._prefill, self._layers = self._counted(self._state())
        self._drafts = DraftCounts() if drafting is None else drafting.counts
        self._recent.clear()

    def read(self, now: Snapshot, seconds: float, *, owner: bool) -> dict[str, Any]:
        """Returns the measured fields.

        Args:
            now: The snapshot to be completed.
            seconds: Since the engine started.
            owner: Whether this is the thread that owns MLX; only it may ask MLX for its memory.
        """
        runtime, state = self.runtime, self._state()
        running, prefill, layers = self._counted(state)
        pairs = [
            (hits - before[0], misses - before[1]) for (hits, misses), before in zip(layers, self._layers, strict=True)
        ]
        answer, prefill = running - self._decode, prefill - self._prefill
        drafts = None if self.session.drafting is None else self.session.drafting.since(self._drafts)
        if drafts is not None:
            answer, prefill = drafts.counts.of_answer(answer, prefill)
        fields: dict[str, Any] = {
            **self._map(state),
            "layer_hits": tuple(hits for hits, _ in pairs),
            "layer_misses": tuple(misses for _, misses in pairs),
            "running": running,
            "answer": answer,
            "prefill": prefill,
            "memory": self._read_memory(seconds, owner=owner),
        }
        if drafts is not None:
            fields |= {"drafts": drafts.short, "gate": drafts.gate_words}
        if (keeper := self._keeper) is not None:
            fields |= {
                "routing": runtime.in_force,
                "price": keeper.price.describe(),
                "spent": keeper.spent_share,
                "why": keeper.why,
            }
        if now.phase == PREFILL and now.total:
            fields["done"] = now.done + self._inside_chunk(now)
        if now.phase == DECODE:
            fields["tps"] = self._tokens_a_second(seconds, now.tokens)
        return fields

    def _state(self) -> dict[str, Any] | None:
        """Returns what all machines hold and count, where several run the model."""
        return None if self._whole is None else self._whole.with_map()

    def _counted(self, state: dict[str, Any] | None) -> tuple[PhaseTotals, PhaseTotals, Sequence[Sequence[int]]]:
        """Returns decode's totals, prefill's, and hits and misses of each layer."""
        if state is None:
            stats = self.runtime.stats
            return stats.decode, stats.prefill, self.runtime.layers.ledger.layer_totals()
        return totals_of(state["decode"]), totals_of(state["prefill"]), state["layers"]

    def _map(self, state: dict[str, Any] | None) -> dict[str, Any]:
        if state is None or self._states is None:
            slots = map(add, self.runtime.slots_per_layer, self.runtime.low_slots_per_layer)
            return {**self._cells.sample(), "slots_per_layer": tuple(slots)}
        slots = map(add, state["slots_per_layer"], state["low_slots_per_layer"])
        return {**self._states.cells(state), "slots_per_layer": tuple(slots), "machines": machines_of(state)}

    def _inside_chunk(self, now: Snapshot) -> int:
        """Tokens' worth of the prompt chunk under way, told by the layers it has passed."""
        chunk = min(self.session.caching.prefill_step_size, max(0, now.total - now.done - 1))
        passed = self.runtime.layers.counter.layers_passed / len(self.runtime.layers)
        return int(chunk * passed) if passed < 1 else 0

    def _tokens_a_second(self, seconds: float, tokens: int) -> float:
        recent = self._recent
        recent.append((seconds, tokens))
        while len(recent) > 2 and seconds - recent[0][0] > WINDOW:
            recent.popleft()
        (since, before), (until, after) = recent[0], recent[-1]
        return (after - before) / (until - since) if until > since else 0.0

    def _read_memory(self, seconds: float, *, owner: bool) -> Memory:
        if seconds - self._memory_at >= MEMORY_EVERY:
            self._memory, self._memory_at = read_memory(), seconds
        if owner:
            import mlx.core as mx

            self._mlx = (mx.get_active_memory(), mx.get_cache_memory(), self.session.kv_nbytes)
        active, cached, kv_cache = self._mlx
        read, plan = self._memory, self.runtime.plan
        return Memory(
            expert_slots=self.runtime.expert_cache_bytes,
            resident_weights=plan.resident_weights,
            kv_cache=kv_cache,
            active=active,
            cached=cached,
            footprint=read.footprint,
            free=read.available,
            total=read.total,
            swap=read.swap_used,
        )
