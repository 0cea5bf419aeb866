"""What a way between streams costs within one graph, and what reading a small array back costs, over plain work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx

#: Multiplications between two crossings: a layer's worth of small work.
_WORK = 4


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns seconds of one way there and back, and of one read-back; None for what is lost in the machine's noise."""
    rounds, trials = (20, 3) if small else (48, 25)
    other = mx.new_stream(mx.cpu)
    plain, crossed, read = _fastest(
        [lambda: _chain(rounds, None), lambda: _chain(rounds, other), lambda: _read_back(rounds)], trials
    )
    return {
        "device": str(mx.default_device()),
        "rounds": rounds,
        "plain_seconds": plain / rounds,
        "crossing_seconds": _over(crossed, plain, rounds),
        "read_back_seconds": _over(read, plain, rounds),
    }


def _fastest(runs: list[Callable[[], None]], trials: int) -> list[float]:
    """Returns the least time of each, taken by turns: what else a machine does only ever adds to one."""
    least = [math.inf] * len(runs)
    for trial in range(-1, trials):
        for number, run in enumerate(runs):
            started = time.perf_counter()
            run()
            if trial >= 0:
                least[number] = min(least[number], time.perf_counter() - started)
    return least


def _over(seconds: float, plain: float, rounds: int) -> float | None:
    return (seconds - plain) / rounds if seconds > plain else None


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
