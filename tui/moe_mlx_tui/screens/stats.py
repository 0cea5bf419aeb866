"""Counts since the model was loaded, decode and prompt apart, and of the last answer."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from moe_mlx.counts.totals import PhaseTotals
from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.engine.snapshot import Machine, Snapshot


def rows_of(totals: PhaseTotals) -> list[tuple[str, str]]:
    """Returns a phase's totals in words and figures."""
    chosen = totals.hits + totals.misses
    rows = [
        ("tokens", f"{totals.tokens:,}"),
        ("experts chosen", f"{chosen:,}"),
        ("hit", f"{totals.hits:,} ({totals.hit_rate:.1%})"),
        ("missed", f"{totals.misses:,} ({totals.miss_rate:.1%})"),
        ("swapped", f"{totals.swapped:,} ({totals.swapped_share:.1%})"),
        ("router weight moved", f"{totals.weight_moved:,.2f}"),
        ("read", show_bytes(totals.disk_bytes)),
        ("waited for reads", f"{totals.wait_seconds:,.2f} s"),
        ("read-backs", f"{totals.read_backs:,}"),
    ]
    if totals.late:
        rows.append(("late", f"{totals.late:,} ({totals.late_share:.1%}), {totals.waits_saved:,} waits saved"))
    if totals.coarse:
        rows.append(("coarse", f"{totals.coarse:,} ({totals.coarse_share:.1%})"))
    if totals.promotions:
        rows.append(("promoted", f"{totals.promotions:,}"))
    if totals.hinted:
        rows.append(("prefetched", f"{totals.hinted:,}, {totals.hint_hits:,} of them used"))
    return rows


def machine_rows(machine: Machine) -> list[tuple[str, str]]:
    """Returns one machine's share of the work in words and figures."""
    chosen = machine.hits + machine.misses
    return [
        ("layers", f"{machine.first}-{machine.last}"),
        ("hit", f"{machine.hits:,} ({machine.hits / chosen if chosen else 0:.1%})"),
        ("missed", f"{machine.misses:,}"),
        ("read, prompts too", show_bytes(machine.bytes_read)),
        ("waited for reads", f"{machine.waited:,.2f} s"),
        ("expert slots", show_bytes(machine.expert_slots)),
        ("process", f"{show_bytes(machine.footprint)} of {show_bytes(machine.memory)}"),
        ("last heard", f"{machine.silent:.1f} s ago"),
    ]


class StatsScreen(ModalScreen[None]):
    """Closed by Esc, Enter, Space or q."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,space,q", "dismiss", "close")]

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot

    def compose(self) -> ComposeResult:
        """Three lists."""
        now = self.snapshot
        parts: list[tuple[str, str] | str] = []
        if now.price:
            parts.append((f"held: {now.price}\n", "bold $primary"))
            spent = (("spent", f"{now.spent:.0%} of the budget"),) if now.spent else ()
            for name, figure in (*spent, ("now", now.routing), ("why", now.why)):
                parts += [(f"  {name:<22}", "$foreground-muted"), f"{figure}\n"]
            parts.append("\n")
        elif now.measured:
            parts.append((f"{now.routing}\n", "bold $primary"))
            parts += [("  measured              ", "$foreground-muted"), f"{now.measured}\n\n"]
        if now.drafts:
            parts.append((f"{now.drafts}\n", "bold $primary"))
            parts += [("  gate                  ", "$foreground-muted"), f"{now.gate or 'not tried yet'}\n\n"]
        for title, totals in (
            ("decode, all answers since loading", now.running),
            ("decode, last answer", now.answer),
            ("prompt of the last answer", now.prefill),
        ):
            parts.append((f"{title}\n", "bold $primary"))
            if not totals.steps:
                parts.append(("  nothing yet\n", "$foreground-muted"))
            for name, figure in rows_of(totals) if totals.steps else ():
                parts += [(f"  {name:<22}", "$foreground-muted"), f"{figure}\n"]
            parts.append("\n")
        for machine in now.machines:
            parts.append((f"{machine.name}\n", "bold $primary"))
            for name, figure in machine_rows(machine):
                parts += [(f"  {name:<22}", "$foreground-muted"), f"{figure}\n"]
            parts.append("\n")
        parts.append(("Esc closes this.", "$foreground-muted"))
        with VerticalScroll(classes="dialog") as box:
            box.border_title = "stats"
            box.border_subtitle = Content(now.routing)
            yield Static(Content.assemble(*parts))
