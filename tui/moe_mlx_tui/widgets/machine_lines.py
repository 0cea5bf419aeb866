"""A line for each machine that runs the model: its memory, what it reads a second, how long it waits for that."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.spark import meter
from moe_mlx_tui.engine.snapshot import Machine, Snapshot

#: Seconds of silence that are shown: the runtime says so after as many.
SILENT = 3.0
_LABEL = 8


class MachineLines:
    """Knows the snapshot before, for what is read and waited for a second."""

    def __init__(self) -> None:
        self._before: tuple[float, tuple[Machine, ...]] = (0.0, ())
        self._rates: tuple[tuple[float, float], ...] = ()

    def take(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot; other machines' figures come twice a second, so rates are of a second at least."""
        since, before = self._before
        seconds = snapshot.time - since
        if len(before) != len(snapshot.machines) or seconds < 0:
            self._before, self._rates = (snapshot.time, snapshot.machines), ((0.0, 0.0),) * len(snapshot.machines)
        elif seconds >= 1.0:
            self._rates = tuple(
                (max(0, now.bytes_read - was.bytes_read) / seconds, max(0.0, now.waited - was.waited) / seconds)
                for now, was in zip(snapshot.machines, before, strict=True)
            )
            self._before = (snapshot.time, snapshot.machines)

    def lines(self, machines: Sequence[Machine], width: int, most: int, *, plain: bool) -> list[Content]:
        """Returns the lines, `most` at most; the last says how many there was no room for."""
        shown = machines if len(machines) <= most else machines[: most - 1]
        found = [self._line(machine, rate, width, plain) for machine, rate in zip(shown, self._rates, strict=False)]
        if len(shown) < len(machines):
            found.append(Content.styled(f"and {len(machines) - len(shown)} more: /stats", "$foreground-disabled"))
        return found

    def _line(self, machine: Machine, rates: tuple[float, float], width: int, plain: bool) -> Content:
        label = Content.styled(f"{f'rank {machine.rank}':<{_LABEL}}", "$foreground-muted")
        if machine.silent > SILENT:
            return Content.assemble(label, (f"not heard for {machine.silent:.0f} s: {machine.name}", "$error"))
        read, wait = rates
        figure = f"{show_bytes(machine.footprint)} · {show_bytes(read)}/s · waits {min(wait, 1):.0%}"
        room = max(4, width - _LABEL - len(figure) - 2)
        full, empty = meter(machine.footprint / machine.memory if machine.memory else 0.0, room, plain)
        return Content.assemble(label, (full, "$secondary"), (empty, "$surface-lighten-2"), f"  {figure}")
