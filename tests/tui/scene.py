"""Fixed scenes for the app's tests: snapshots made by arithmetic, and a source that shows what it is told."""

from dataclasses import replace
from pathlib import Path

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx_tui.app import ChatApp
from moe_mlx_tui.drawing.cells import ABSENT, ARRIVED, EVICTED, NEWEST, NO_SLOT, USED
from moe_mlx_tui.engine.orders import Order
from moe_mlx_tui.engine.snapshot import (
    DECODE,
    IDLE,
    LOADING,
    PREFILL,
    Memory,
    ModelFacts,
    Settings,
    Snapshot,
    TurnReceipt,
)
from moe_mlx_tui.saved.conversation import Conversation

#: Sizes of a terminal, with the side panel and without.
WIDE, NARROW = (132, 40), (80, 24)
QUESTION = "Why is the sky blue?"
ANSWER = """Sunlight meets **air molecules** on its way down, and they scatter it.

1. Short waves are scattered far more than long ones.
2. So blue reaches the eye from everywhere.

```python
def scattered(wavelength):
    return wavelength**-4
```
"""
THINKING = "<think>\nThe user wants Rayleigh scattering, briefly.\n</think>\n\n"
SETTINGS = Settings(
    (
        ("max_tokens", 1024),
        ("temp", 0.0),
        ("top_p", 1.0),
        ("min_p", 0.0),
        ("top_k", 0),
        ("repetition_penalty", None),
        ("seed", None),
    ),
    (
        ("routing", "cache-prior"),
        ("route_lambda", 0.1),
        ("route_top_j", None),
        ("route_max_rank", None),
        ("route_mass", 0.7),
        ("light", "exact"),
        ("light_beyond", 0.6),
        ("light_distance", 1),
    ),
    "50%",
    (
        ("evict", "lru"),
        ("decode", "auto"),
        ("prefetch", "auto"),
        ("prompt_store", "off"),
        ("profile", "sums"),
        ("pin", ""),
    ),
)


def facts(layers: int = 8, experts: int = 32, top_k: int = 4) -> ModelFacts:
    """A model of that shape."""
    return ModelFacts("demo", "qwen3_moe", (experts,) * layers, (top_k,) * layers, (27648,) * layers)


def _mix(number: int) -> int:
    """A fixed number that looks random."""
    number = (number ^ 61) * 0x27D4EB2D & 0xFFFFFFFF
    return (number ^ number >> 15) * 0x9E3779B1 >> 7 & 0xFFFF


def cells_of(model: ModelFacts, frame: int = 0) -> bytes:
    """Half of the experts resident, some of them lively; drifts with `frame`."""
    out = bytearray()
    for place in range(model.offsets[-1]):
        kind = _mix(place * 7 + 3) % 100
        lively = _mix(place * 31 + frame * 101) % 100
        if kind < 50:
            out.append(USED if lively < 12 else ARRIVED if lively < 15 else NEWEST - _mix(place) % 6)
        else:
            out.append(EVICTED if lively < 3 else ABSENT)
    return bytes(out)


def slots_of(cells: bytes) -> bytes:
    """Slots in order of the resident."""
    out, next_slot = bytearray(), 0
    for cell in cells:
        resident = cell not in (ABSENT, EVICTED)
        out += (next_slot if resident else NO_SLOT).to_bytes(2, "little")
        next_slot += resident
    return bytes(out)


def counts_of(model: ModelFacts, most: int) -> bytes:
    """Four bytes an expert, up to `most`."""
    return b"".join((_mix(place + 5) % (most + 1)).to_bytes(4, "little") for place in range(model.offsets[-1]))


def loading() -> Snapshot:
    """A model that is being loaded."""
    return Snapshot(phase=LOADING, activity="loading demo", done=3_000_000, total=4_500_000, unit="bytes")


def idle(model: ModelFacts | None = None) -> Snapshot:
    """A model that waits for a question."""
    model = model or facts()
    cells = bytes(ABSENT for _ in range(model.offsets[-1]))
    return Snapshot(
        time=1.0,
        phase=IDLE,
        model=model,
        settings=SETTINGS,
        cells=cells,
        slots=slots_of(cells),
        slots_per_layer=tuple(count // 2 for count in model.experts),
        layer_hits=(0,) * model.layers,
        layer_misses=(0,) * model.layers,
        routing="cache-prior lambda 0.1",
        memory=Memory(3_540_000, 992_000, 0, 4_530_000, 50_000, 122_000_000, 22_700_000_000, 25_000_000_000, 0),
    )


def prefill(turn: str, model: ModelFacts | None = None) -> Snapshot:
    """A long prompt half read."""
    model = model or facts()
    cells = cells_of(model)
    return replace(
        idle(model),
        time=2.0,
        phase=PREFILL,
        activity="reading the prompt",
        done=768,
        total=2048,
        turn=turn,
        prompt=QUESTION,
        cells=cells,
        slots=slots_of(cells),
        prefill=PhaseTotals(1, 768, 900, 300, 0, 8_300_000, 0.4),
    )


def decode(turn: str, frame: int = 40, text: str = "", model: ModelFacts | None = None) -> Snapshot:
    """An answer under way, `frame` frames in."""
    model = model or facts()
    cells = cells_of(model, frame)
    hits, misses = 28 * frame, 4 * frame
    totals = PhaseTotals(
        frame, frame, hits, misses, frame * 2, misses * 27648, frame * 0.002, frame, frame * 0.2, frame * 32
    )
    return replace(
        prefill(turn, model),
        time=3 + frame / 8,
        phase=DECODE,
        activity="",
        done=frame,
        total=1024,
        tokens=frame,
        tps=60 + _mix(frame) % 40,
        cells=cells,
        slots=slots_of(cells),
        uses=counts_of(model, frame),
        reads=counts_of(model, frame // 8),
        answer=totals,
        running=totals,
        text=text,
        layer_hits=tuple(90 + _mix(layer) % 60 for layer in range(model.layers)),
        layer_misses=tuple(5 + _mix(layer + 9) % 25 for layer in range(model.layers)),
    )


def over(before: Snapshot, finish: str = "stop") -> Snapshot:
    """The end of an answer."""
    receipt = TurnReceipt(
        before.tokens,
        1.4,
        87.0,
        2048,
        1500,
        512.0,
        finish,
        "",
        before.answer.hit_rate,
        before.answer.swapped_share,
        before.answer.bytes_read,
        8_300_000,
        0.08,
        "cache-prior lambda 0.1",
    )
    return replace(before, phase=IDLE, time=before.time + 0.1, receipt=receipt, done=0, total=0)


class Still:
    """A source that shows what it is told, and remembers the orders."""

    live = True

    def __init__(self, latest: Snapshot) -> None:
        self.latest = latest
        self.orders: list[Order] = []

    def start(self) -> None:
        pass

    def submit(self, order: Order) -> None:
        self.orders.append(order)

    def close(self) -> None:
        pass


def chat(latest: Snapshot, home: Path, *, plain: bool = False, conversation: Conversation | None = None) -> ChatApp:
    """The app over a still source."""
    app = ChatApp(Still(latest), home=home, plain=plain, poll=False, conversation=conversation)
    app.prompt.cursor_blink = False
    return app


async def show(app: ChatApp, pilot: object, snapshot: Snapshot) -> None:
    """Shows a snapshot and waits until the screen stands."""
    app.source.latest = snapshot
    app.call_later(app.tick)
    for _ in range(3):
        await pilot.pause()


async def converse(app: ChatApp, pilot: object, *, frames: int = 40, text: str = THINKING + ANSWER) -> Snapshot:
    """Asks the question and streams the answer; returns the last snapshot shown."""
    await app.ask(QUESTION)
    snapshot = app.source.latest
    for frame in range(frames - 12, frames + 1, 3):
        part = text[: len(text) * (frame - frames + 12) // 12]
        snapshot = decode(app.turn, frame, part, app.source.latest.model)
        await show(app, pilot, snapshot)
    return snapshot


async def exchange(app: ChatApp, pilot: object, question: str, answer: str) -> None:
    """Sends a message and shows the whole of its answer."""
    app.prompt.put(question)
    await pilot.press("enter")
    await pilot.pause()
    await show(app, pilot, over(decode(app.turn, 20, answer)))
    await app.workers.wait_for_complete()
