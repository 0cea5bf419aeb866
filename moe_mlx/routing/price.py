"""What an answer may cost, as people write it: `--quality 0.002`, `--quality 99%`, `--speed 12`. Imports no NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_mlx.errors import UsageError

#: What a quality is measured by: divergence from exact routing, or how often both find another token likeliest.
KL, AGREEMENT = "KL", "disagreement"


@dataclass(frozen=True, slots=True)
class Quality:
    """The loss that a token may cost on the average.

    Attributes:
        measure: `KL`, in nats; or `AGREEMENT`: the share of tokens for which exact routing finds another likeliest.
        budget: Of it, a token; above 0.
    """

    measure: str
    budget: float

    def describe(self, loss: float | None = None) -> str:
        """Returns the budget in its own words; with `loss` that instead."""
        loss = self.budget if loss is None else loss
        return f"KL {loss:.2g}" if self.measure == KL else f"{1 - loss:.2%} agreement"


@dataclass(frozen=True, slots=True)
class Price:
    """What was asked for.

    Attributes:
        quality: The loss that may be spent; None: not bounded.
        speed: Tokens a second that are wanted; None: as few bytes as the quality allows.
    """

    quality: Quality | None = None
    speed: float | None = None

    def describe(self) -> str:
        """Returns both in a few words."""
        parts = [] if self.quality is None else [f"quality {self.quality.describe()}"]
        return ", ".join(parts if self.speed is None else [*parts, f"speed {self.speed:g} tok/s"])


def read_quality(text: str | float) -> Quality:
    """Reads `0.002` (KL a token, in nats) or `99%` (agreement with exact routing).

    Raises:
        UsageError: it is neither, or nothing that can be held.
    """
    shown = str(text).strip()
    try:
        if shown.endswith("%"):
            quality = Quality(AGREEMENT, 1 - float(shown[:-1]) / 100)
            if 0 < quality.budget < 1:
                return quality
        else:
            quality = Quality(KL, float(shown))
            if 0 < quality.budget < math.inf:
                return quality
    except ValueError:
        pass
    raise UsageError(
        f"quality {shown!r}: give the KL a token that may be lost, such as 0.002, or the agreement to keep, such as "
        "99%; where nothing may be lost, --routing exact"
    )


def read_speed(text: str | float) -> float:
    """Reads tokens a second.

    Raises:
        UsageError: it is no number above 0.
    """
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < math.inf:
        raise UsageError(f"speed {str(text)!r}: give tokens a second, more than 0")
    return speed


def read_price(quality: str | float | None, speed: str | float | None) -> Price | None:
    """Returns what was asked for; None where nothing was.

    Raises:
        UsageError: one of them cannot be read.
    """
    if quality is None and speed is None:
        return None
    return Price(
        None if quality is None else read_quality(quality),
        None if speed is None else read_speed(speed),
    )
