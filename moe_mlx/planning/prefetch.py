"""Cross-layer gate prefetch (Fate, arXiv 2502.12224): whether it runs, and the memory that it takes.

While a layer computes, the next layer's choice is guessed, by its own router from this layer's input, and read into
staging buffers that routing cannot see. A right guess is copied to its slot instead of being read; a wrong one has cost
its read. Choices, slots and results are those without it. What it may delay: a layer's own misses wait for one more
product of a router, and share the disk with a wrong guess that is still being read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_mlx.store import ExpertLayer
from moe_mlx.system.calibration import read_calibration
from moe_mlx.system.given import check_choice, check_whole

PREFETCHES = ("off", "on", "auto")
#: Experts guessed beyond a layer's top_k; a negative number guesses fewer, and is right more often.
DEFAULT_EXTRA = 0
#: What the calibration must have measured for "auto" to turn it on: less is within the spread of such a measurement.
LEAST_GAIN = 1.02
_ALIGNMENT = 16384


@dataclass(frozen=True, slots=True)
class Prefetch:
    """What to guess with.

    Attributes:
        extra: Experts guessed beyond top_k; see `guesses`.
        threads: Guessed experts that are read at once.
        buffers: Staging buffers; every guess of one layer has one, beside reads of earlier guesses that still run.
        buffer_nbytes: Bytes of each: the largest expert, in whole units of 16 KiB.
        why: Why it is on, in a few words.
    """

    extra: int
    threads: int
    buffers: int
    buffer_nbytes: int
    why: str

    def guesses(self, layer: ExpertLayer) -> int:
        """Returns how many experts of a layer are guessed: at least one, at most all."""
        return _guesses(layer, self.extra)

    @property
    def nbytes(self) -> int:
        """Bytes of all staging buffers; part of the memory plan."""
        return self.buffers * self.buffer_nbytes


def _guesses(layer: ExpertLayer, extra: int) -> int:
    return min(max(1, layer.top_k + extra), layer.experts)


def check_prefetch(prefetch: str, extra: int) -> None:
    """Checks what was asked for.

    Raises:
        UsageError: there is no such way, or `extra` is no whole number.
    """
    check_choice("prefetch", prefetch, PREFETCHES)
    check_whole("prefetch_extra", extra, None, of="experts")


def plan_prefetch(prefetch: str, extra: int, layers: Sequence[ExpertLayer], readers: int) -> Prefetch | None:
    """Decides whether to prefetch.

    Args:
        prefetch: One of `PREFETCHES`; "auto" is on where this machine's calibration measured a gain.
        extra: Experts to guess beyond top_k; negative for fewer.
        layers: The MoE layers.
        readers: Threads of the demand path; prefetch gets one fewer, and at least one.

    Returns:
        What it takes, or None where it is off.

    Raises:
        UsageError: as `check_prefetch`.
    """
    check_prefetch(prefetch, extra)
    why = "as asked"
    if prefetch == "auto":
        found = read_calibration()
        gain = found.prefetch_gain if found is not None else None
        if not isinstance(gain, int | float) or gain <= LEAST_GAIN:
            return None
        why = f"this machine's calibration measured {gain:.2f}x"
    if prefetch == "off" or len(layers) < 2:
        return None
    guesses = max(_guesses(layer, extra) for layer in layers)
    threads = max(1, readers - 1)
    largest = max(layer.expert_nbytes for layer in layers)
    return Prefetch(extra, threads, guesses + threads, -(-largest // _ALIGNMENT) * _ALIGNMENT, why)
