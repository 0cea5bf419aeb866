"""What all ranks must have alike, compared before anything is loaded: a difference would be garbage without a word."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from moe_mlx.errors import UsageError, one_line
from moe_mlx.machines.launched import Launch
from moe_mlx.machines.meeting import Meeting
from moe_mlx.system.metal import FAST_SYNCH
from moe_mlx.version import __version__

#: Environment that changes what MLX or we compute, or in which order.
VARIABLES = (FAST_SYNCH, "MLX_ENABLE_TF32", "MLX_MAX_OPS_PER_BUFFER", "MOE_MLX_DECODE")


def facts_here(**told: object) -> dict[str, str]:
    """Returns this process's facts, in the order in which differences are named.

    Args:
        told: What the caller has to add, by its name; words instead of underscores are shown.
    """
    found = {
        "moe-mlx": __version__,
        "mlx": _version("mlx"),
        "mlx-lm": _version("mlx-lm"),
        "machine": platform.machine(),
        **{name.replace("_", " "): str(value) for name, value in told.items()},
    }
    return found | {name: os.environ.get(name, "not set") for name in VARIABLES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def differences(launch: Launch, facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns one line for each fact that a rank has otherwise than rank 0, naming both sides."""
    lines = []
    leader = facts[0]
    for rank, theirs in enumerate(facts):
        for name in dict.fromkeys([*leader, *theirs]):
            ours, other = leader.get(name, "nothing"), theirs.get(name, "nothing")
            if other != ours:
                lines.append(
                    one_line(
                        f"{name}: {launch.named(rank)} has {other}, {launch.named(0)} has {ours}: make them the same"
                    )
                )
    return lines


def compare(meeting: Meeting, facts: Mapping[str, str]) -> None:
    """Exchanges facts and refuses to go on with different ones.

    Raises:
        UsageError: they differ; rank 0 has said each difference before.
        MachinesError: the group broke.
    """
    told = meeting.exchange("facts", dict(facts))
    found = differences(meeting.launch, [one if isinstance(one, dict) else {} for one in told])
    if not found:
        return
    if not meeting.leads:
        mine = [line for line in found if meeting.launch.named(meeting.launch.rank) in line]
        raise UsageError((mine or found)[0])
    for line in found[:-1]:
        meeting.say(line)
    raise UsageError(found[-1])
