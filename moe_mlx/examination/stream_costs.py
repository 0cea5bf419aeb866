"""What a way between streams costs within one graph, and what reading a small array back costs, over plain work."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import mlx.core as mx

#: Multiplications between two crossings: a layer's worth of small work.
_WORK = 4


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns seconds of one way there and back, and of one read-back; medians."""
    rounds, trials = (20, 3) if small else (48, 15)
    other = mx.new_stream(mx.cpu)
    plain = _median(lambda: _chain(rounds, None), trials)
    crossed = _median(lambda: _chain(rounds, other), trials)
    read = _median(lambda: _read_back(rounds), trials)
    return {
        "device": str(mx.default_device()),
        "rounds": rounds,
        "plain_seconds": plain / rounds,
        "crossing_seconds": max(0.0, crossed - plain) / rounds,
        "read_back_seconds": max(0.0, read - plain) / rounds,
    }


def _median(run: Any, trials: int) -> float:
    run()
    times = []
    for _ in range(trials):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]


def _layer(x: mx.array, weights: mx.array) -> mx.array:
    for _ in range(_WORK):
        x = mx.tanh(x @ weights)
    return x


def _chain(rounds: int, other: Any) -> None:
    x, weights = mx.ones((1, 256)), mx.eye(256) * 0.5
    for _ in range(rounds):
        x = _layer(x, weights)
        x = mx.add(x, 1, stream=other) if other is not None else mx.add(x, 1)
    mx.eval(x)


def _read_back(rounds: int) -> None:
    x, weights = mx.ones((1, 256)), mx.eye(256) * 0.5
    for _ in range(rounds):
        x = _layer(x, weights)
        x = mx.add(x, float(x[0, 0].item() * 0 + 1))
    mx.eval(x)
