"""Settings that may change while the model runs: sampling, routing, cap."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static

from moe_mlx.routing.names import POLICIES
from moe_mlx_tui.engine.orders import Configure
from moe_mlx_tui.engine.snapshot import Settings

#: name, whether it is whole, what it means. None is written as an empty field.
SAMPLING = (
    ("max_tokens", True, "an answer at most; -1 no limit"),
    ("temp", False, "0 is greedy"),
    ("top_p", False, "0 to 1"),
    ("min_p", False, "0 to 1"),
    ("top_k", True, "0 is all"),
    ("repetition_penalty", False, "empty is none"),
    ("seed", True, "empty is none"),
)
ROUTING = (
    ("route_lambda", False, "cache-prior: strength, 0 to 1"),
    ("route_top_j", True, "experts never displaced; empty is auto"),
    ("route_max_rank", True, "max-rank: M; empty is auto"),
    ("route_mass", False, "cumulative: p, 0 to 1"),
)
_MAY_BE_EMPTY = ("repetition_penalty", "seed", "route_top_j", "route_max_rank")


class SettingsScreen(ModalScreen[Configure | None]):
    """Enter or Ctrl+S applies, Esc leaves things as they were."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "apply", "apply"),
        Binding("escape", "dismiss(None)", "close"),
    ]

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._cap = settings.expert_cache
        self._values: dict[str, Any] = {**dict(settings.sampling), **dict(settings.routing)}

    def compose(self) -> ComposeResult:
        """A line per setting."""
        with VerticalScroll(classes="dialog settings") as box:
            box.border_title = "settings"
            yield from self._row("expert_cache", self._cap, "50%, 4GB or auto")
            routing = str(self._values.get("routing", "exact"))
            with Horizontal(classes="row"):
                yield Label("routing", classes="name")
                yield Select(
                    [(name, name) for name in POLICIES], value=routing, allow_blank=False, id="routing", compact=True
                )
            for name, _, hint in ROUTING + SAMPLING:
                value = self._values.get(name)
                yield from self._row(name, "" if value is None else f"{value:g}", hint)
            yield Static("", id="complaint")
            with Horizontal(classes="row buttons"):
                yield Button("Apply", variant="primary", id="apply", compact=True)
                yield Button("Cancel", id="cancel", compact=True)
                yield Static(Content.styled("Enter applies, Esc closes", "$foreground-muted"), classes="keys")

    @staticmethod
    def _row(name: str, value: str, hint: str) -> ComposeResult:
        with Horizontal(classes="row"):
            yield Label(name, classes="name")
            yield Input(value, id=name, compact=True)
            yield Label(hint, classes="hint")

    def on_mount(self) -> None:
        """Begins at the cap."""
        self.query_one("#expert_cache", Input).focus()

    @on(Input.Submitted)
    @on(Button.Pressed, "#apply")
    def action_apply(self) -> None:
        """Reads the fields and hands over what has changed."""
        sampling: dict[str, Any] = {}
        routing: dict[str, Any] = {}
        for rows, changes in ((SAMPLING, sampling), (ROUTING, routing)):
            for name, whole, hint in rows:
                text = self.query_one(f"#{name}", Input).value.strip()
                try:
                    value = (int(text) if whole else float(text)) if text else None
                except ValueError:
                    value, text = None, ""
                    complaint = True
                else:
                    complaint = not text and name not in _MAY_BE_EMPTY
                if complaint:
                    self._complain(name, f"{name} needs a {'whole ' if whole else ''}number: {hint}")
                    return
                if value != self._values.get(name):
                    changes[name] = value
        chosen = self.query_one("#routing", Select).value
        if chosen != self._values.get("routing"):
            routing["routing"] = chosen
        cap = self.query_one("#expert_cache", Input).value.strip()
        self.dismiss(Configure(sampling, routing, cap if cap and cap != self._cap else None))

    def _complain(self, name: str, text: str) -> None:
        self.query_one("#complaint", Static).update(Content.styled(text, "$error"))
        self.query_one(f"#{name}", Input).focus()

    @on(Button.Pressed, "#cancel")
    def cancel(self) -> None:
        """Changes nothing."""
        self.dismiss(None)
