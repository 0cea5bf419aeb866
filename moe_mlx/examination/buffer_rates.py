"""Decode with MLX's own MLX_MAX_OPS_PER_BUFFER and with another one, by turns.

MLX reads it once in a process. So each value has a process of its own, which keeps a model loaded and runs a trial when
told; what disturbs the machine meanwhile disturbs both.

`python -m moe_mlx.examination.buffer_rates STORE TOKENS` is such a process: a line in is a trial, a line out its speed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import mlx.core as mx

from moe_mlx.benchmark.prompts import random_tokens
from moe_mlx.benchmark.settings import BenchSetting
from moe_mlx.benchmark.trial import load_setting, run_trial
from moe_mlx.errors import MoeMlxError
from moe_mlx.examination.random_model import checkpoint_and_store

VARIABLE = "MLX_MAX_OPS_PER_BUFFER"
VALUE = 8
#: After so much of the part's time no round of trials begins.
_SECONDS = 75.0


def examine(folder: Path, *, small: bool) -> dict[str, Any]:
    """Returns tokens a second without and with it, and by how much it is faster in each round."""
    deadline = time.monotonic() + _SECONDS
    tokens, trials = (6, 1) if small else (24, 5)
    _, store = checkpoint_and_store(folder, small=small)
    own: list[float] = []
    other: list[float] = []
    with ExitStack() as stack:
        pairs: list[tuple[subprocess.Popen[str], list[float]]] = []
        for value, found in ((None, own), (VALUE, other)):
            pairs.append((_start(store, tokens, value), found))
            stack.callback(_end, pairs[-1][0])
        for done in range(-1, trials):
            if done >= 0 and time.monotonic() > deadline:
                break
            for process, found in pairs if done % 2 else pairs[::-1]:
                found.append(_trial(process))
    gains = [b / a for a, b in zip(own[1:], other[1:], strict=True)]
    return {
        "value": VALUE,
        "metal": mx.metal.is_available(),
        "own": statistics.median(own[1:] or own),
        "changed": statistics.median(other[1:] or other),
        "gains": gains,
        "trials": len(gains),
        "asked_trials": trials,
    }


def _start(store: Path, tokens: int, value: int | None) -> subprocess.Popen[str]:
    environment = {name: text for name, text in os.environ.items() if name != VARIABLE}
    if value is not None:
        environment[VARIABLE] = str(value)
    command = [sys.executable, "-m", __name__, str(store), str(tokens)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _trial(process: subprocess.Popen[str]) -> float:
    """Runs a trial in another process and returns its tokens a second."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    except (OSError, ValueError):
        raise MoeMlxError("a process that decodes with its own MLX_MAX_OPS_PER_BUFFER has ended") from None


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process, which has no trial under way."""
    process.kill()
    process.communicate()


def main() -> int:
    """Runs trials for as long as lines come in."""
    store, tokens = Path(sys.argv[1]), int(sys.argv[2])
    setting = BenchSetting("25%", "exact", None, "auto", "cached", "warm")
    subject = load_setting(store, setting, lambda line: None)
    prompt = random_tokens({"vocab_size": 128}, 16)
    for _ in sys.stdin:
        print(run_trial(subject, prompt, tokens, step_size=512).decode_tps, flush=True)
    subject.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
