"""What `mlx.launch` told this process: its rank, and who the others are. No MLX here."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError, one_line

RING, JACCL = "ring", "jaccl"
#: How a model may be shared.
PIPELINE, TENSOR = "pipeline", "tensor"
WAYS = (PIPELINE, TENSOR)
#: One of them, by the plan's cost model.
AUTO = "auto"
#: How machines may be connected, by name of `moe_mlx.machines.cost.LINKS`, which needs more than a parser does.
LINK_NAMES = ("1G", "10G", "thunderbolt", "jaccl")
#: Seconds that a rank may be missing or silent.
PATIENCE = 60.0
#: Where ranks meet before MLX lets them: "HOST:PORT" of rank 0, for networks where the derived one will not do.
MEETING = "MOE_MLX_MEETING"
#: What each machine does for itself, so that it is right under mlx.launch as well.
FOR_ITSELF = frozenset(
    ("list", "fetch", "convert", "verify", "inspect", "families", "plan", "doctor", "config", "completions", "rig")
)
#: A hostfile is a few lines.
_LARGEST_FILE = 1_000_000


@dataclass(frozen=True, slots=True)
class Launch:
    """One of several processes that were started together.

    Attributes:
        rank: Its number, from 0; rank 0 leads.
        size: How many there are.
        backend: "ring" or "jaccl", as MLX calls it.
        hosts: Each rank's address, as far as rank 0's environment tells it.
        meeting: Host and port where rank 0 listens for the others.
        ports: Ports of the ring, whose connections are this group's.
    """

    rank: int
    size: int
    backend: str
    hosts: tuple[str, ...]
    meeting: tuple[str, int]
    ports: tuple[int, ...] = ()

    def named(self, rank: int) -> str:
        """Returns a rank as people are told of it: "rank 1 (10.0.0.2)"."""
        host = self.hosts[rank] if rank < len(self.hosts) else ""
        return f"rank {rank} ({one_line(host)})" if host else f"rank {rank}"


def launched(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Returns what this process is part of; None where it runs alone.

    Args:
        environment: `os.environ` by default.

    Raises:
        UsageError: it was started by something that we do not know how to join, or its files cannot be read.
    """
    found = os.environ if environment is None else environment
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
        if _number(found, variable, 1) > 1:
            raise UsageError("MPI started this program: start it with `mlx.launch --backend ring` (or jaccl)")
    if "MLX_RANK" not in found:
        return None
    if found.get("MLX_WORLD_SIZE"):
        raise UsageError("nccl started this program: start it with `mlx.launch --backend ring` (or jaccl)")
    hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    if found.get("MLX_IBV_DEVICES"):
        size, backend, first = len(_list(found["MLX_IBV_DEVICES"])), JACCL, found.get("MLX_JACCL_COORDINATOR", "")
    elif found.get("MLX_HOSTFILE"):
        nodes = [node if isinstance(node, list) else [node] for node in _list(found["MLX_HOSTFILE"])]
        places = [[_place(str(word), "MLX_HOSTFILE") for word in node] for node in nodes]
        if not all(places):
            raise UsageError(f"MLX_HOSTFILE {found['MLX_HOSTFILE']}: a rank without an address")
        hosts = tuple(node[0][0] for node in places)
        ports = tuple(port for node in places for _, port in node)
        size, backend, first = len(places), RING, f"{hosts[0]}:{max(ports)}" if hosts else ""
    else:
        return None
    if size < 2:
        return None
    rank = _number(found, "MLX_RANK", -1)
    if not 0 <= rank < size:
        raise UsageError(f"MLX_RANK is {found['MLX_RANK']!r}: give a number from 0 to {size - 1}")
    # One port beyond those that MLX listens at, on the same interface.
    host, port = _place(found.get(MEETING) or first, MEETING)
    return Launch(rank, size, backend, hosts, (host, port if found.get(MEETING) else port + 1), ports)


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name, default))
    except ValueError:
        return default


def _list(path: str) -> list[Any]:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_LARGEST_FILE).strip()
        found = json.loads(text) if text else []
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: the hosts that mlx.launch wrote cannot be read ({error})") from None
    if not isinstance(found, list):
        raise UsageError(f"{path}: the hosts that mlx.launch wrote are no list")
    return found


def _place(text: str, named: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{named} {text!r}: give HOST:PORT")
    return host.strip("[]"), int(port)


def refuse_alone(verb: str, parallel: str | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Refuses a verb that would run once a machine where one answer is expected.

    Args:
        verb: What is to run.
        parallel: How it shares the model; None where it does not.
        environment: `os.environ` by default.

    Raises:
        UsageError: it would.
    """
    if verb not in FOR_ITSELF and parallel is None and (found := launched(environment)) is not None:
        raise UsageError(
            f"mlx.launch started {found.size} of these, and each would load all of the model and answer by itself: "
            "run it without mlx.launch, or generate, chat or serve with --parallel"
        )
