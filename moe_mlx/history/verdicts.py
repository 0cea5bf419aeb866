"""What evaluations found of lossy settings, per model: a few numbers in the user's own folder.

A file that is missing, foreign or damaged is no verdict; it is written anew as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.history.kept_rows import read_rows, write_rows
from moe_mlx.routing.names import DEFAULT_FORM
from moe_mlx.system.folders import user_folder

NAME = "verdicts"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One setting that was evaluated.

    Attributes:
        light: What absent light experts did.
        beyond: Share of a token's weight before a light expert.
        distance: Layers later that late outputs were added.
        routing: The policy, with its parameter.
        cache: The cap.
        tokens: Tokens scored.
        kl: KL(exact || setting) a token, in nats.
        ppl_change: Of perplexity: 0.01 is +1%.
        agreement: Top-1 agreement with the exact run.
        form: What of an expert a coarse one was.
    """

    light: str
    beyond: float
    distance: int
    routing: str
    cache: str
    tokens: int
    kl: float
    ppl_change: float
    agreement: float
    form: str = DEFAULT_FORM


def found_of(verdicts: Iterable[Verdict], routing: str, light: str) -> str:
    """Returns what was found of a policy with its parameter, cap by cap, in one line; "" where nothing was."""
    found = [one for one in verdicts if one.routing == routing and one.light == light]
    return "; ".join(f"at {one.cache} KL {one.kl:.2g}, {one.agreement:.1%} of tokens alike" for one in found)


def verdicts_path(identity: str) -> Path:
    """Returns where those of a model are kept.

    Raises:
        RuntimeError: there is no home folder.
    """
    return user_folder() / "verdicts" / f"{identity}.json"


def read_verdicts(identity: str) -> list[Verdict]:
    """Returns what evaluations found of a model; nothing where there is no sound file."""
    return read_rows(lambda: verdicts_path(identity), NAME, Verdict)


def keep_verdicts(identity: str, found: Iterable[Verdict]) -> None:
    """Adds verdicts to those of a model; a later one of the same setting stands in for the earlier.

    Raises:
        OSError: from the operating system.
        RuntimeError: there is no home folder.
    """
    kept = {_setting(verdict): verdict for verdict in (*read_verdicts(identity), *found)}
    write_rows(verdicts_path(identity), NAME, list(kept.values()))


def _setting(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.light, verdict.beyond, verdict.distance, verdict.routing, verdict.cache, verdict.form
