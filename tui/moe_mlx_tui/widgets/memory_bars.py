"""Memory side by side: expert slots, the rest of the model, this process, the system; or machine beside machine."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.drawing.spark import meter
from moe_mlx_tui.engine.snapshot import Machine, Memory, Snapshot
from moe_mlx_tui.widgets.machine_lines import MachineLines

_LABEL = 8


class MemoryBars(Widget):
    """Four lines."""

    #: With its border.
    HEIGHT = 6

    def __init__(self, *, plain: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.plain = plain
        self._memory, self._experts, self._share = Memory(), 0, 0.0
        self._machines: tuple[Machine, ...] = ()
        self._machine_lines = MachineLines()
        self.border_title = "memory"

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        if snapshot.model is None:
            return
        if snapshot.machines != self._machines:
            self._machines = snapshot.machines
            self.border_title = "machines" if self._machines else "memory"
            self.refresh()
        if self._machines:
            self._machine_lines.take(snapshot)
        shown = (snapshot.memory, snapshot.model.total_bytes, snapshot.cap_share)
        if shown != (self._memory, self._experts, self._share):
            self._memory, self._experts, self._share = shown
            self.refresh()

    def _bar(self, label: str, share: float, figure: str, colour: str, room: int) -> Content:
        width = max(4, self.size.width - _LABEL - room - 2)
        full, empty = meter(share, width, self.plain)
        return Content.assemble(
            (f"{label:<{_LABEL}}", "$foreground-muted"), (full, colour), (empty, "$surface-lighten-2"), f"  {figure}"
        )

    def render(self) -> Content:
        """Returns the bars."""
        if self._machines:
            lines = self._machine_lines.lines(self._machines, self.size.width, self.HEIGHT - 2, plain=self.plain)
            return Content("\n").join(lines)
        m = self._memory
        if not m.total:
            return Content.styled("known when the model is loaded", "$foreground-disabled")
        kept, mlx = f"weights {show_bytes(m.resident_weights)}", f"MLX {show_bytes(m.active)}"
        cache = show_bytes(m.kv_cache)
        ways = [
            f"{kept} · KV cache {cache} · {mlx} + {show_bytes(m.cached)} cached",
            f"{kept} · KV cache {cache} · {mlx}",
            f"{kept} · KV {cache} · {mlx}",
            f"{kept} · KV {cache}",
        ]
        rest = next((way for way in ways if len(way) <= self.size.width), kept)
        slots = f"{show_bytes(m.expert_slots)} of {show_bytes(self._experts)} ({self._share:.0%})"
        free = f"{show_bytes(m.free)} free, swap {show_bytes(m.swap)}"
        room = max(len(slots), len(free))  # a figure is written out; the bars take what is left
        lines = [
            self._bar("experts", self._share, slots, "$primary", room),
            self._bar("process", m.footprint / m.total, show_bytes(m.footprint), "$secondary", room),
            self._bar("system", 1 - m.free / m.total, free, "$foreground-muted", room),
            Content.styled(rest, "$foreground-disabled"),
        ]
        return Content("\n").join(lines)
