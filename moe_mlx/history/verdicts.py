"""What evaluations found of light experts that are not waited for, per model: a few numbers in the user's own folder.

A file that is missing, foreign or damaged is no verdict; it is written anew as a whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from moe_mlx.store.files import open_regular
from moe_mlx.system.folders import user_folder
from moe_mlx.system.whole_files import write_whole

FORMAT, VERSION = "moe-mlx verdicts", 1
_LARGEST_FILE = 1_000_000


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


def verdicts_path(identity: str) -> Path:
    """Returns where those of a model are kept.

    Raises:
        RuntimeError: there is no home folder.
    """
    return user_folder() / "verdicts" / f"{identity}.json"


def read_verdicts(identity: str) -> list[Verdict]:
    """Returns what evaluations found of a model; nothing where there is no sound file."""
    try:
        with os.fdopen(open_regular(verdicts_path(identity)), "rb") as file:
            kept = json.loads(file.read(_LARGEST_FILE))
        if (kept["format"], kept["version"]) != (FORMAT, VERSION):
            return []
        return [_checked(row) for row in kept["verdicts"]]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError):
        return []


def keep_verdicts(identity: str, found: Iterable[Verdict]) -> None:
    """Adds verdicts to those of a model; a later one of the same setting stands in for the earlier.

    Raises:
        OSError: from the operating system.
        RuntimeError: there is no home folder.
    """
    kept = {_setting(verdict): verdict for verdict in (*read_verdicts(identity), *found)}
    path = verdicts_path(identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"format": FORMAT, "version": VERSION, "verdicts": [asdict(verdict) for verdict in kept.values()]}
    write_whole(path, json.dumps(told, indent=1) + "\n", private=True)


def _setting(verdict: Verdict) -> tuple[Any, ...]:
    return verdict.light, verdict.beyond, verdict.distance, verdict.routing, verdict.cache


def _checked(row: dict[str, Any]) -> Verdict:
    verdict = Verdict(**row)
    for field in fields(Verdict):
        value = getattr(verdict, field.name)
        if not isinstance(value, str if field.type == "str" else int if field.type == "int" else int | float):
            raise TypeError(field.name)
    return verdict
