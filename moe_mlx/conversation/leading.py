"""A conversation whose model runs on several machines: rank 0's side, which asks, chooses the tokens, and stops."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import mlx.core as mx

from moe_mlx.conversation.answer import Answer, Piece
from moe_mlx.conversation.receipt import Receipt
from moe_mlx.conversation.session import Session
from moe_mlx.conversation.whole_model import WholeModel, together
from moe_mlx.errors import MachinesError, MoeMlxError, NotTogetherError, UsageError
from moe_mlx.loading.runtime import Runtime
from moe_mlx.machines.agreement import Agreement
from moe_mlx.machines.group import in_group
from moe_mlx.machines.meeting import Meeting
from moe_mlx.store import digest

ANSWER, FORGET, CHANGE, RESIZE, END = "answer", "forget", "change", "resize", "end"
#: What of a runtime may be changed on all ranks, and what each may change by itself while it answers.
CHANGES = frozenset(("reset", "set_routing", "set_eviction", "use_decode"))
OWN = frozenset(("use_decode", "resize"))


def agreement_of(group: Any, runtime: Runtime) -> Agreement:
    """Returns the agreement of an answer that begins, with this rank's counts from here on."""
    before = runtime.stats.decode

    def counts() -> tuple[int, int, int]:
        since = runtime.stats.decode - before
        return since.hits, since.misses, since.bytes_read

    native = runtime.layers.native
    return Agreement(group, counts, None if native is None else native.failed_by)


def agreed_slots(runtime: Runtime, meeting: Meeting, expert_cache: str | int, *, by_layers: bool) -> list[int] | None:
    """Asks every rank what it could make of a cap; all of them call it.

    Args:
        runtime: This rank's.
        meeting: Where the others are asked.
        expert_cache: The cap.
        by_layers: Whether ranks have layers of their own; else all need the same slots.

    Returns:
        The slots a layer that every rank can have; None where each has its own.

    Raises:
        NotTogetherError: one cannot have that cap. All of them raise it, and nothing was changed.
    """
    try:
        mine: dict[str, Any] = {"slots": runtime.plan_for(expert_cache).slots}
    except MoeMlxError as error:
        mine = {"error": str(error)}
    told = meeting.exchange("resize", mine)
    for rank, one in enumerate(told):
        if "error" in one:
            raise NotTogetherError(f"{meeting.launch.named(rank)}: {one['error']}")
    return None if by_layers else [min(slots) for slots in zip(*(one["slots"] for one in told), strict=True)]


def rank_summary(session: Session, named: str) -> dict[str, Any]:
    """Returns what this rank, under its name, says of the answer that just ended; JSON."""
    answer, runtime = session.last, session.runtime
    assert answer is not None
    return {
        "machine": named,
        "tokens": len(answer.tokens),
        "seconds": answer.seconds,
        "held": session.held_tokens,
        "layers": [layer.layer for layer in runtime.source.layers],
        "residency": residency_of(runtime),
        "decode_way": runtime.decode_way,
        "expert_cache_bytes": runtime.expert_cache_bytes,
        "slots_per_layer": runtime.slots_per_layer,
        "resident_bytes": runtime.plan.resident_weights,
        "peak_memory_bytes": mx.get_peak_memory(),
        "decode": answer.decode.as_dict(),
        "prefill": answer.prefill.as_dict(),
    }


def residency_of(runtime: Runtime) -> str:
    """Returns a digest of which expert sits in which slot of every layer, once no step is queued."""
    return digest.of([cache.table.slot_of.tobytes() for cache in runtime.layers])


def forget_if_apart(session: Session, ranks: Sequence[dict[str, Any]]) -> None:
    """Throws the prompt cache away where not every rank's holds as much: they have to be cut back alike."""
    if len({rank["held"] for rank in ranks}) > 1:
        session._throw_away()


@dataclass
class LeadingSession(Session):
    """Rank 0's conversation.

    Attributes:
        meeting: Where the other ranks listen.
        group: MLX's group.
        whole: The model as one, over all ranks.
        ranks: What each rank said of the latest answer, by rank; its counts together are `last`'s.
    """

    meeting: Meeting = field(kw_only=True)
    group: Any = field(kw_only=True)
    whole: WholeModel = field(kw_only=True)
    ranks: list[dict[str, Any]] = field(default_factory=list, kw_only=True)
    _answering: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.runtime.on_change = self._change

    @property
    def by_layers(self) -> bool:
        """Whether ranks have layers of their own, and so caps of their own; else all share each expert."""
        return self.whole.by_layers

    def _change(self, name: str, arguments: dict[str, Any]) -> Sequence[int] | None:
        """Lets every rank change what rank 0 changes.

        Raises:
            UsageError: it is in an answer's midst, where the others would hear of it at another token, or nothing that
                several machines have.
            NotTogetherError: a cap that a rank cannot have.
        """
        if self._answering:
            if name not in (OWN if self.by_layers else ()):
                raise UsageError(f"{name.replace('_', ' ')}: all machines change together, when the answer has ended")
            return None
        if name == "resize":
            self.meeting.order({"do": RESIZE, **arguments})
            return agreed_slots(self.runtime, self.meeting, **arguments, by_layers=self.by_layers)
        if name not in CHANGES or arguments.get("light", "exact") != "exact":
            raise UsageError(f"{name.replace('_', ' ')}: late and coarse experts run on one machine only")
        self.meeting.order({"do": CHANGE, "name": name, "arguments": arguments})
        return None

    def answer(
        self,
        prompt: list[int],
        *,
        stop: threading.Event | None = None,
        on_prefill: Callable[[int, int], None] | None = None,
        logits_processors: Sequence[Any] | None = None,
        sampler: Callable[[mx.array], mx.array] | None = None,
    ) -> Generator[Piece, None, Answer]:
        """Generates one answer on all ranks; as `Session.answer`. Rank 0 alone draws and changes logits.

        Raises:
            MachinesError: another rank failed or is gone. The conversation so far is still this session's.
        """
        if not prompt:
            raise UsageError("the prompt is empty: say something")
        self._check_sampling()
        if self.meeting.trouble:
            raise self.meeting.broken()
        agreement = self.agreement = agreement_of(self.group, self.runtime)
        if stop is not None:
            agreement.stop = stop
        with in_group(self.meeting), self._in_answer():
            chunk = self.caching.prefill_step_size
            order = {"do": ANSWER, "prompt": list(prompt), "sampling": asdict(self.sampling), "chunk": chunk}
            self.meeting.order(order)
            pieces = super().answer(
                prompt,
                stop=stop,
                on_prefill=on_prefill,
                logits_processors=list(logits_processors or ()),
                sampler=sampler,
            )
            try:
                while (piece := next(pieces, None)) is not None:
                    yield piece
            except GeneratorExit:
                # The others run on until they are told: so do we, and nobody sees the two tokens that this takes.
                agreement.stop.set()
                with suppress(StopIteration):
                    while True:
                        next(pieces)
                self._all_ended()
                raise
            self._all_ended()
        assert self.last is not None
        return self.last

    @contextmanager
    def _in_answer(self) -> Iterator[None]:
        self._answering = True
        try:
            yield
        finally:
            self._answering = False

    def machines(self) -> list[dict[str, Any]]:
        """Returns what each rank says of the latest answer, by rank."""
        return self.ranks

    def _all_ended(self) -> None:
        self.ranks = self.meeting.exchange("answered", rank_summary(self, self.meeting.launch.named(0)))
        for rank, said in enumerate(self.ranks):
            if figures := said.pop("figures", None):  # newer than the beat before
                self.meeting.pulse.latest[rank] = figures
        forget_if_apart(self, self.ranks)
        self.last = self._as_one(self.last)
        if not self.by_layers and len({rank["residency"] for rank in self.ranks}) > 1:
            raise MachinesError(
                "the machines' residency came apart, so nothing that they say together can be trusted: please report it"
            )

    def _as_one(self, answer: Answer | None) -> Answer:
        """Returns rank 0's answer with what all ranks counted."""
        assert answer is not None
        decode, prefill = (
            together([rank[phase] for rank in self.ranks], by_layers=self.by_layers) for phase in ("decode", "prefill")
        )
        routing = answer.receipt.routing
        receipt = Receipt.of(decode, prefill, answer.discarded_steps, routing)
        return replace(answer, decode=decode, prefill=prefill, receipt=receipt)

    def forget(self) -> None:
        """Throws every rank's prompt cache away."""
        super().forget()
        if not self.meeting.trouble:
            self.meeting.order({"do": FORGET})

    def close(self) -> None:
        """Lets the other ranks go, and closes the model; of a group that is broken, what is still here."""
        with suppress(MachinesError):  # whoever answers has said so already
            if not self.meeting.trouble:
                self.meeting.order({"do": END})
                self.meeting.exchange("ended", None)
        self.meeting.close()
        if not self.meeting.trouble:
            self.runtime.close()
            return
        with suppress(MoeMlxError, RuntimeError, ValueError):  # steps that are queued wait for a rank that is gone
            self.runtime.close()
