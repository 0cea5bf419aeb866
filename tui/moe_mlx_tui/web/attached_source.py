"""A running `moe-mlx serve` as the source of snapshots: its map and gauges, and answers from it, over HTTP.

The map comes from `/v1/experts`, answers from `/v1/chat/completions`. What belongs to the server's owner (routing, cap,
emptying the cache) cannot be changed from here, and that is said.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.errors import MoeMlxError, UsageError
from moe_mlx_tui.drawing.cells import ABSENT, AGE_EDGES, ARRIVED, EVICTED, HELD, NEWEST, USED
from moe_mlx_tui.engine.orders import Ask, Order, Stop
from moe_mlx_tui.engine.snapshot import CLOSED, DECODE, IDLE, PREFILL, Memory, ModelFacts, Snapshot
from moe_mlx_tui.engine.written import Written

#: Seconds without a word from the server; it sends a state three times a second.
SILENCE = 30.0
_EDGES = np.array(AGE_EDGES, dtype=np.int64)
_COUNTERS = {field.name for field in fields(PhaseTotals)}
_MEMORY = {field.name for field in fields(Memory)}


class AttachedSource:
    """Reads a server's states in a thread; asks it in another one."""

    live = True

    def __init__(self, url: str, key: str | None = None) -> None:
        """Begins with the server's facts.

        Raises:
            UsageError: no address.
            MoeMlxError: no server there, or it does not take the key.
        """
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"--attach {url}: give http://HOST:PORT")
        self.url, self.key = url.rstrip("/"), key
        self.listeners: list[Callable[[Snapshot], None]] = []
        self._lock = threading.Lock()
        self._latest = Snapshot(activity="connecting")
        self._stopped: set[str] = set()
        self._closing = False
        self._seen: deque[tuple[float, int]] = deque(maxlen=8)
        self._before: NDArray[np.bool_] | None = None
        self._answering = False
        self._events = self._states()
        name, facts = next(self._events)
        if name != "facts":
            raise MoeMlxError(f"{self.url} is no moe-mlx serve")
        self._facts = _facts_of(facts)

    @property
    def latest(self) -> Snapshot:
        """The newest snapshot."""
        return self._latest

    def start(self) -> None:
        """Begins to read."""
        threading.Thread(target=self._read, name="moe-mlx-attached", daemon=True).start()

    def submit(self, order: Order) -> None:
        """Asks the server, or stops listening to its answer."""
        if isinstance(order, Stop):
            self._stopped.add(order.turn)
        elif isinstance(order, Ask):
            threading.Thread(target=self._answer, args=(order,), name="moe-mlx-asking", daemon=True).start()
        else:
            remark = "settings of a server belong to whoever runs it: nothing was changed"
            self._publish(remarks=(*self._latest.remarks, remark)[-20:], remark_count=self._latest.remark_count + 1)

    def close(self) -> None:
        """Leaves; the server goes on."""
        self._closing = True

    def _open(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            return urllib.request.urlopen(request, timeout=SILENCE)
        except urllib.error.HTTPError as error:
            try:
                said = str(json.load(error)["error"]["message"])
            except (ValueError, KeyError, TypeError):
                said = f"it answers {error.code}"
            raise MoeMlxError(f"the server at {self.url}: {said}") from error
        except OSError as error:
            raise MoeMlxError(f"no server answers at {self.url}: {error}") from error

    def _states(self) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._open("/v1/experts") as lines:
            name = ""
            for line in lines:
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    yield name, json.loads(text.removeprefix("data: "))

    def _read(self) -> None:
        said = "the server has ended"
        try:
            for name, state in self._events:
                if self._closing:
                    return
                if name == "facts":  # another model has taken its place
                    self._facts, self._before = _facts_of(state), None
                    self._seen.clear()
                else:
                    self._publish(**self._measured(state))
        except (OSError, ValueError, KeyError, TypeError, MoeMlxError, zlib.error) as error:
            said = f"the server at {self.url} is gone: {error}"
        self._publish(phase=CLOSED, activity="", error=said)

    def _measured(self, state: Mapping[str, Any]) -> dict[str, Any]:
        running = PhaseTotals(**{name: value for name, value in state["decode"].items() if name in _COUNTERS})
        prefill = PhaseTotals(**{name: value for name, value in state["prefill"].items() if name in _COUNTERS})
        pairs = [tuple(map(int, pair)) for pair in state["layers"]]
        self._seen.append((float(state["time"]), int(state["generated"])))
        (since, before), (until, after) = self._seen[0], self._seen[-1]
        found: dict[str, Any] = {
            "time": float(state["time"]),
            "model": self._facts,
            "routing": str(state["routing"]),
            "slots_per_layer": tuple(state["slots_per_layer"]),
            "running": running,
            "answer": running,
            "prefill": prefill,
            "layer_hits": tuple(pair[0] for pair in pairs),
            "layer_misses": tuple(pair[1] for pair in pairs),
            "queued": int(state["waiting"]),
            "memory": Memory(**{name: int(value) for name, value in state["memory"].items() if name in _MEMORY}),
            "tps": (after - before) / (until - since) if until > since else 0.0,
            **self._cells(state),
        }
        if not self._answering:
            found["phase"], found["activity"] = IDLE, ""
            if state["running"]:
                found["activity"] = f"the server answers {state['running']} of its clients"
        return found

    def _cells(self, state: Mapping[str, Any]) -> dict[str, bytes]:
        slots, ages = _unpacked(state["slot_of"], "<i2"), _unpacked(state["age"], "<i4")
        widths, held = np.array(self._facts.experts), np.array(state["slots_per_layer"])
        if slots.size != widths.sum() or held.size != widths.size:
            raise ValueError("a state of another model")
        top_k = np.repeat(np.maximum(1, np.array(self._facts.top_k)), widths)
        resident = slots >= 0
        cells = NEWEST - np.searchsorted(_EDGES, ages // top_k)
        cells[ages < top_k] = USED
        cells[np.repeat(held == widths, widths)] = HELD
        cells = np.where(resident, cells, ABSENT).astype(np.uint8)
        if self._before is not None:
            cells[resident & ~self._before & (cells != HELD)] = ARRIVED
            cells[self._before & ~resident] = EVICTED
        self._before = resident
        counts = {name: _unpacked(state[name], "<u4").astype("<u4").tobytes() for name in ("uses", "reads")}
        return {"cells": cells.tobytes(), "slots": slots.astype("<u2").tobytes(), **counts}

    def _answer(self, ask: Ask) -> None:
        self._answering = True
        reply = {"role": "assistant", "content": "", "reasoning_content": ""}
        began, tokens, written = time.monotonic(), 0, Written(self._facts)
        self._publish(
            phase=PREFILL,
            activity="the server reads the prompt",
            turn=ask.turn,
            at=ask.at,
            prompt=ask.messages[-1]["content"],
            text="",
            reply={},
            tokens=0,
            receipt=None,
            error="",
        )
        try:
            with self._open("/v1/chat/completions", {"messages": list(ask.messages), "stream": True}) as lines:
                for line in lines:
                    if ask.turn in self._stopped or self._closing:
                        break
                    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                        continue
                    row = json.loads(line[6:])
                    if "error" in row:
                        raise MoeMlxError(str(row["error"]["message"]))
                    for choice in row["choices"]:
                        delta = choice["delta"]
                        thought, said = delta.get("reasoning_content") or "", delta.get("content") or ""
                        reply["reasoning_content"] += thought
                        reply["content"] += said
                        written.add([("reasoning", thought)] if thought else [("normal", said)] if said else [])
                        tokens += 1
                    self._publish(phase=DECODE, activity="", text=written.text, tokens=tokens)
        except (OSError, ValueError, KeyError, MoeMlxError) as error:
            self._answering = False
            self._publish(phase=IDLE, activity="", error=str(error))
            return
        self._answering = False
        rate = tokens / max(1e-6, time.monotonic() - began)
        self._publish(phase=IDLE, activity="", text=written.text, reply=reply, tokens=tokens, tps=rate)

    def _publish(self, **changes: Any) -> None:
        with self._lock:
            self._latest = replace(self._latest, **changes)
            for listener in self.listeners:
                listener(self._latest)


def _unpacked(text: Any, kind: str) -> NDArray[np.int64]:
    data = zlib.decompressobj().decompress(base64.b64decode(text), 1 << 24)
    return np.frombuffer(data, dtype=kind).astype(np.int64)


def _facts_of(told: Mapping[str, Any]) -> ModelFacts:
    experts, top_k, sizes = (tuple(map(int, told[part])) for part in ("experts", "top_k", "expert_bytes"))
    facts = ModelFacts(str(told["name"]), str(told["family"]), experts, top_k, sizes)
    if not told.get("thinking"):
        return facts
    start, end = map(str, told["thinking"])
    return replace(facts, thinking=(start, end))
