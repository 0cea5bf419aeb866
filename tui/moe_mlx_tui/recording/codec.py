"""Snapshots as JSON objects that carry only what changed since the one before: for recordings and for sockets."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.errors import UsageError
from moe_mlx_tui.engine.snapshot import Column, Compared, Machine, Memory, ModelFacts, Settings, Snapshot, TurnReceipt

VERSION = 1
_NAMES = tuple(f.name for f in fields(Snapshot))
_BYTES = ("cells", "slots", "uses", "reads")
_TOTALS = ("answer", "prefill", "running")
_ROUNDED = {"time": 3, "since": 3, "tps": 2}
EMPTY = Snapshot()


def _xor(one: bytes, other: bytes) -> bytes:
    if len(one) != len(other):
        return one
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


def _numbers(value: Any) -> list[Any]:
    return [round(x, 6) if isinstance(x, float) else x for x in (getattr(value, f.name) for f in fields(value))]


def encode(now: Snapshot, before: Snapshot | None) -> dict[str, Any]:
    """Returns what changed from `before` to `now`; everything if there is no `before`."""
    since = before if before is not None else EMPTY
    row: dict[str, Any] = {} if before is not None else {"key": 1}
    for name in _NAMES:
        new, old = getattr(now, name), getattr(since, name)
        if new == old:
            continue
        if name in _BYTES:
            row[name] = base64.b64encode(zlib.compress(_xor(new, old), 1)).decode()
            if len(new) != len(old):
                row[name] = "!" + row[name]
        elif name in _TOTALS or name == "memory":
            row[name] = _numbers(new)
        elif name == "machines":
            row[name] = [_numbers(machine) for machine in new]
        elif name in ("model", "receipt", "settings", "compared"):
            row[name] = None if new is None else asdict(new)
        elif name == "text" and old and new.startswith(old):
            row["more"] = new[len(old) :]
        else:
            row[name] = round(new, _ROUNDED[name]) if name in _ROUNDED else new
    return row


def decode(row: Mapping[str, Any], before: Snapshot | None) -> Snapshot:
    """Returns the snapshot that `encode` was given.

    Raises:
        UsageError: the row is no row of ours.
    """
    since = EMPTY if before is None or row.get("key") else before
    changes: dict[str, Any] = {}
    try:
        for name, value in row.items():
            if name == "more":
                changes["text"] = since.text + value
            elif name in _BYTES:
                whole = value.startswith("!")
                data = zlib.decompress(base64.b64decode(value[1:] if whole else value))
                changes[name] = data if whole else _xor(data, getattr(since, name))
            elif name in _TOTALS:
                changes[name] = PhaseTotals(*value)
            elif name == "memory":
                changes[name] = Memory(*value)
            elif name == "machines":
                changes[name] = tuple(Machine(*row) for row in value)
            elif name == "model":
                changes[name] = None if value is None else ModelFacts(**{k: _frozen(v) for k, v in value.items()})
            elif name == "receipt":
                changes[name] = None if value is None else TurnReceipt(**value)
            elif name == "compared":
                changes[name] = None if value is None else _compared(value)
            elif name == "settings":
                changes[name] = Settings(**{k: _frozen(v) for k, v in value.items()})
            elif name in _NAMES:
                changes[name] = _frozen(value)
        return replace(since, **changes)
    except (TypeError, ValueError, AttributeError, zlib.error) as error:
        raise UsageError(f"this row is no snapshot: {error}") from error


def _compared(value: Mapping[str, Any]) -> Compared:
    columns = tuple(
        Column(
            row["routing"],
            tuple(row["pieces"]),
            None if row["receipt"] is None else TurnReceipt(**row["receipt"]),
        )
        for row in value["columns"]
    )
    return Compared(**{**value, "columns": columns})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
