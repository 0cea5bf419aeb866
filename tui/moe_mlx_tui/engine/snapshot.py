"""What the app shows, frozen: made by the engine thread (or a recording, or a socket), read by the screen.

Everything is immutable and free of MLX, so a snapshot may cross threads, processes and time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.system.terminal import harmless

LOADING, IDLE, PREFILL, DECODE, FAILED, CLOSED = "loading", "idle", "prefill", "decode", "failed", "closed"
#: Nothing is loaded, and nothing was asked for.
EMPTY = "no model"
BUSY = (LOADING, PREFILL, DECODE)


@dataclass(frozen=True)
class ModelFacts:
    """What does not change while a model is loaded.

    Attributes:
        name: As shown.
        family: The config's model type.
        experts: Routed experts of each MoE layer.
        top_k: Experts a token takes, by layer.
        expert_bytes: Size of one expert, by layer.
        thinking: Tags around thinking.
        tools: Tags around tool calls.
        model: What `--model` takes for it.
        context: Positions that it was made for; 0 where unknown.
        ranks: The machine that holds each layer; empty where there is one.
    """

    name: str
    family: str
    experts: tuple[int, ...]
    top_k: tuple[int, ...]
    expert_bytes: tuple[int, ...]
    thinking: tuple[str, str] = ("<think>", "</think>")
    tools: tuple[str, str] = ("<tool_call>", "</tool_call>")
    model: str = ""
    context: int = 0
    ranks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", harmless(self.name))

    @property
    def layers(self) -> int:
        """How many MoE layers there are."""
        return len(self.experts)

    @cached_property
    def layer_ranks(self) -> tuple[int, ...]:
        """The machine that holds each layer."""
        return self.ranks if len(self.ranks) == self.layers else (0,) * self.layers

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each layer begins in `Snapshot.cells`, and where the last one ends."""
        places = [0]
        for count in self.experts:
            places.append(places[-1] + count)
        return tuple(places)

    @property
    def total_bytes(self) -> int:
        """Bytes of all routed experts."""
        return sum(count * size for count, size in zip(self.experts, self.expert_bytes, strict=True))


#: Before a model is there.
NO_FACTS = ModelFacts("", "", (), (), ())


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in bytes; 0 where it is not known."""

    expert_slots: int = 0
    resident_weights: int = 0
    kv_cache: int = 0
    active: int = 0
    cached: int = 0
    footprint: int = 0
    free: int = 0
    total: int = 0
    swap: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """One of several machines that run the model; counts are since loading.

    Attributes:
        name: As the runtime names it, address included.
        first: The first of its layers, by the model's own number.
        last: The last of them.
        bytes_read: Bytes of experts read, of prompts too.
        waited: Seconds of decode that stood still for reads.
        expert_slots: Bytes of its expert slots.
        footprint: Bytes of its process.
        memory: Bytes of memory that it has.
        silent: Seconds since it was heard.
    """

    rank: int
    name: str
    first: int
    last: int
    hits: int
    misses: int
    bytes_read: int
    waited: float
    expert_slots: int
    footprint: int
    memory: int
    silent: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", harmless(self.name))


@dataclass(frozen=True, slots=True)
class TurnReceipt:
    """What one answer took; counts are decode's unless named otherwise.

    Attributes:
        counted: False where nothing but tokens and seconds is known: an answer of a server that was stopped.
        machines: What each of several machines said of it, a line each.
        drafts: Drafts and those accepted, in a few words; empty where none were made.
        bits: The mean bits of experts that have bits of their own, in a few words; empty where none have.
    """

    tokens: int
    seconds: float
    tps: float
    prompt_tokens: int
    reused_tokens: int
    prompt_tps: float
    finish: str
    refilled: str
    hit_rate: float
    swapped_share: float
    bytes_read: int
    prompt_bytes_read: int
    wait_seconds: float
    routing: str
    late_share: float = 0.0
    counted: bool = True
    coarse_share: float = 0.0
    profile: str = ""
    machines: tuple[str, ...] = ()
    drafts: str = ""
    bits: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "machines", tuple(map(harmless, self.machines)))
        object.__setattr__(self, "drafts", harmless(self.drafts))


@dataclass(frozen=True, slots=True)
class Column:
    """One of two answers side by side.

    Attributes:
        routing: In words.
        pieces: The text that each token added, so far.
        receipt: Once it is over.
    """

    routing: str
    pieces: tuple[str, ...] = ()
    receipt: TurnReceipt | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """Two routings on one prompt.

    Attributes:
        turn: Identity of what was asked.
        columns: Both, in order.
        parted: The first token that differs, as far as both go; None where none does.
        over: Whether nothing more comes.
        error: What went wrong, with its next step.
    """

    turn: str
    columns: tuple[Column, ...]
    parted: int | None = None
    over: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling, routing, cap and how the model was loaded, as the settings screen shows them."""

    sampling: tuple[tuple[str, float | int | None], ...] = ()
    routing: tuple[tuple[str, str | float | int | None], ...] = ()
    expert_cache: str = ""
    loading: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment.

    Attributes:
        time: Seconds since the engine started.
        phase: One of the names at the top of this module.
        activity: What is being waited for, in words.
        since: Seconds from the engine's start to when that began.
        done: Progress of `activity`.
        total: Its end; 0 if unknown.
        unit: "tokens" or "bytes".
        turn: Identity of the answer under way or the last one.
        at: Messages of the conversation (system prompt apart) before that turn's prompt.
        prompt: The message that is being answered.
        text: The answer so far, reasoning and calls between the model's tags.
        reply: The message of the answer once it is over, as the conversation's next prompt takes it; empty before.
        tokens: Its tokens so far.
        tps: Tokens a second, over the last two seconds.
        cells: One byte per expert, layer after layer; see `cells`.
        slots: Two bytes per expert, likewise.
        uses: Four bytes per expert, likewise: decode steps that used it since loading or the last reset. A layer held
            whole does not look, so it does not count.
        reads: Four bytes per expert, likewise: how often it had to be read for that.
        slots_per_layer: Slots of each layer, whole and low.
        layer_hits: Decode hits of each layer in this answer.
        layer_misses: Decode misses of each layer in this answer.
        answer: Decode totals of this answer.
        prefill: Prefill totals of this answer.
        running: Decode totals since loading.
        receipt: Of the turn, once it is over.
        error: What went wrong in the turn (or in loading), with its next step.
        remarks: What the engine said, latest last.
        remark_count: How many it has said in all.
        context: Tokens of the conversation that the model has before it: the prompt and the answer so far.
        compared: Two routings side by side, under way or the last ones.
        queued: Turns waiting behind this one (several browser tabs share one engine).
        price: What is held by moving the routing, in words; empty where a routing is.
        spent: Share of the quality's budget that was spent, over its window; 0 where none is held.
        why: Why the routing is as it is now.
        drafts: Drafts of the latest answer and those accepted, and whether they are off, in a few words; empty where
            nothing drafts.
        gate: What drafting costs and saves, as last measured, in words.
        measured: What evaluations of this model found of the routing; empty where nothing is lost.
        machines: Each machine that runs the model, by rank; empty where there is one.
    """

    time: float = 0.0
    phase: str = LOADING
    activity: str = ""
    since: float = 0.0
    done: int = 0
    total: int = 0
    unit: str = "tokens"
    model: ModelFacts | None = None
    settings: Settings = field(default_factory=Settings)
    turn: str = ""
    at: int = 0
    prompt: str = ""
    text: str = ""
    reply: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    tps: float = 0.0
    cells: bytes = b""
    slots: bytes = b""
    uses: bytes = b""
    reads: bytes = b""
    slots_per_layer: tuple[int, ...] = ()
    layer_hits: tuple[int, ...] = ()
    layer_misses: tuple[int, ...] = ()
    answer: PhaseTotals = field(default_factory=PhaseTotals)
    prefill: PhaseTotals = field(default_factory=PhaseTotals)
    running: PhaseTotals = field(default_factory=PhaseTotals)
    memory: Memory = field(default_factory=Memory)
    routing: str = ""
    receipt: TurnReceipt | None = None
    error: str = ""
    remarks: tuple[str, ...] = ()
    remark_count: int = 0
    queued: int = 0
    context: int = 0
    compared: Compared | None = None
    price: str = ""
    spent: float = 0.0
    why: str = ""
    measured: str = ""
    machines: tuple[Machine, ...] = ()
    drafts: str = ""
    gate: str = ""

    def __post_init__(self) -> None:
        # Wherever these words are shown, they may be of a stranger's folder or recording. The answer and its prompt
        # stay as they are: they are kept with the conversation, and made harmless where they are drawn.
        for name in ("phase", "activity", "unit", "routing", "error", "price", "why", "measured", "drafts", "gate"):
            object.__setattr__(self, name, harmless(getattr(self, name)))
        object.__setattr__(self, "remarks", tuple(map(harmless, self.remarks)))

    @property
    def busy(self) -> bool:
        """Whether something is under way."""
        return self.phase in BUSY

    def counts(self, place: int) -> tuple[int, int]:
        """Returns uses and reads of the expert at `place` in `cells`; zeros where a recording has none."""
        uses, reads = (int.from_bytes(data[place * 4 : place * 4 + 4], "little") for data in (self.uses, self.reads))
        return uses, reads

    @property
    def cap_share(self) -> float:
        """Share of the routed experts that have a slot."""
        return sum(self.slots_per_layer) / max(1, len(self.cells))
