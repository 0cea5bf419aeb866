"""Settings in people's words: cap, routing, sampling, the system prompt; and what the model is loaded anew for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Select, Static, TextArea

from moe_mlx.conversation.opening import OFF, store_place
from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.eviction import EVICTIONS
from moe_mlx.history.pins import read_pin
from moe_mlx.history.profiles import check_profile
from moe_mlx.planning.prefetch import PREFETCHES
from moe_mlx.routing.names import DECODE_WAYS, LIGHTS, POLICIES
from moe_mlx_tui.engine.orders import Configure, Load
from moe_mlx_tui.engine.snapshot import Settings


@dataclass(frozen=True, slots=True)
class Field:
    """A number that may be typed.

    Attributes:
        name: The option's, as on the command line.
        words: What people call it.
        whole: Whether it is a whole number.
        hint: What it may be.
        empty: What nothing stands for; where empty itself, there has to be a number.
    """

    name: str
    words: str
    whole: bool
    hint: str
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Typed:
    """Words that may be typed; empty is none.

    Attributes:
        name: The option's, as on the command line.
        words: What people call it.
        hint: What it may be.
        check: Raises UsageError where it is not.
    """

    name: str
    words: str
    hint: str
    check: Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words."""

    name: str
    words: str
    values: tuple[str, ...]
    hint: str = ""


ROUTING = (
    Field("route_lambda", "cache preference", False, "cache-prior: 0 is exact, 1 most"),
    Field("route_top_j", "never displace top", True, "experts a token", "auto"),
    Field("route_max_rank", "stand-ins from top", True, "max-rank: how many", "auto"),
    Field("route_mass", "stand-ins from mass", False, "cumulative: 0 to 1"),
    Field("light_beyond", "light beyond", False, "of a token's weight, 0 to 1"),
)
SAMPLING = (
    Field("max_tokens", "longest answer", True, "tokens; -1 no limit"),
    Field("temp", "temperature", False, "0 always takes the likeliest"),
    Field("top_p", "nucleus (top-p)", False, "0 to 1; 1 is all"),
    Field("min_p", "least share (min-p)", False, "0 to 1, a share of the likeliest"),
    Field("top_k", "likeliest (top-k)", True, "tokens to draw from; 0 is all"),
    Field("repetition_penalty", "repetition penalty", False, "above 1 repeats less", "none"),
    Field("seed", "seed", True, "the same again", "none"),
)
POLICIES_OF_DECODE = (
    Choice("routing", "routing", tuple(POLICIES), "exact, or what memory holds"),
    Choice("light", "light experts", LIGHTS, "wait, join later, fewer bits"),
)
#: What a loaded model cannot change.
LOADING = (
    Choice("evict", "gives way first", tuple(EVICTIONS), "loads the model anew"),
    Choice("decode", "decode", DECODE_WAYS, "graph or read back; loads anew"),
    Choice("prefetch", "read ahead", PREFETCHES, "loads the model anew"),
    Choice("prompt_store", "prompts on disk", (OFF, "auto"), "keeps prompts; loads anew"),
)
TYPED_AT_LOADING = (
    Typed("profile", "profile", "a task's own history, by name; loads anew", check_profile),
    Typed("pin", "pinned experts", "4 a layer, or 3:17,5:2; loads anew", read_pin),
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was changed: an order where there is one, the system prompt where it is another."""

    order: Configure | Load | None
    system: str | None


class SettingsScreen(ModalScreen[Chosen | None]):
    """Enter or Ctrl+S applies, Esc leaves things as they were."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "apply", "apply"),
        Binding("escape", "dismiss(None)", "close"),
    ]

    def __init__(self, settings: Settings, system: str = "") -> None:
        super().__init__()
        self._cap, self._system = settings.expert_cache, system
        self._values: dict[str, Any] = {
            **dict(settings.sampling),
            **dict(settings.routing),
            **dict(settings.loading),
        }

    def compose(self) -> ComposeResult:
        """A line per setting, in sections."""
        with VerticalScroll(classes="dialog settings") as box:
            box.border_title = "settings"
            yield from self._row("expert_cache", "memory for experts", self._cap, "50%, 4GB or auto")
            for choice in POLICIES_OF_DECODE:
                yield from self._select(choice)
            yield from self._fields(ROUTING)
            yield self._head("answers")
            yield from self._fields(SAMPLING)
            with Horizontal(classes="row text"):
                yield Label("system prompt", classes="name")
                yield TextArea(self._system, id="system_prompt", tab_behavior="focus", compact=True)
            yield self._head("the model")
            for choice in LOADING:
                if choice.name in self._values:
                    yield from self._select(choice)
            for typed in TYPED_AT_LOADING:
                if typed.name in self._values:
                    yield from self._row(typed.name, typed.words, str(self._values[typed.name]), typed.hint)
            yield Static("", id="complaint")
            with Horizontal(classes="row buttons"):
                yield Button("Apply", variant="primary", id="apply", compact=True)
                yield Button("Cancel", id="cancel", compact=True)
                yield Static(Content.styled("Enter or Ctrl+S applies, Esc closes", "$foreground-muted"), classes="keys")

    @staticmethod
    def _head(title: str) -> Static:
        return Static(Content.styled(title, "bold $primary"), classes="head")

    def _fields(self, fields: tuple[Field, ...]) -> Iterator[Any]:
        for field in fields:
            value = self._values.get(field.name)
            hint = f"{field.hint}; empty is {field.empty}" if field.empty else field.hint
            yield from self._row(field.name, field.words, "" if value is None else f"{value:g}", hint)

    @staticmethod
    def _row(name: str, words: str, value: str, hint: str) -> Iterator[Any]:
        with Horizontal(classes="row"):
            yield Label(words, classes="name")
            yield Input(value, id=name, compact=True)
            yield Label(hint, classes="hint")

    def _select(self, choice: Choice) -> Iterator[Any]:
        value = str(self._values.get(choice.name, choice.values[0]))
        values = choice.values if value in choice.values else (*choice.values, value)
        with Horizontal(classes="row"):
            yield Label(choice.words, classes="name")
            yield Select(
                [(name, name) for name in values], value=value, allow_blank=False, id=choice.name, compact=True
            )
            yield Label(choice.hint, classes="hint")

    def on_mount(self) -> None:
        """Begins at the cap."""
        self.query_one("#expert_cache", Input).focus()

    @on(Input.Submitted)
    @on(Button.Pressed, "#apply")
    def action_apply(self) -> None:
        """Reads the fields and hands over what has changed."""
        try:
            routing, sampling = self._numbers(ROUTING), self._numbers(SAMPLING)
            loading = self._typed()
        except _WrongError as error:
            self.query_one("#complaint", Static).update(Content.styled(str(error), "$error"))
            self.query_one(f"#{error.name}", Input).focus()
            return
        for choice in POLICIES_OF_DECODE:
            routing |= self._picked(choice)
        for choice in LOADING:
            loading |= self._picked(choice)
        if "prompt_store" in loading:
            loading["prompt_store"] = store_place(loading["prompt_store"])
        cap = self.query_one("#expert_cache", Input).value.strip()
        change = cap if cap and cap != self._cap else None
        system = self.query_one("#system_prompt", TextArea).text.strip()
        order: Configure | Load | None = Configure(sampling, routing, change)
        if loading:
            held = {} if change is None else {"expert_cache": change}
            order = Load(options={**sampling, **routing, **held, **loading})
        elif order == Configure():
            order = None
        self.dismiss(Chosen(order, None if system == self._system else system))

    def _numbers(self, fields: tuple[Field, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for field in fields:
            text = self.query_one(f"#{field.name}", Input).value.strip()
            try:
                value = (int(text) if field.whole else float(text)) if text else None
            except ValueError:
                raise _wrong_number(field) from None
            if value is None and not field.empty:
                raise _wrong_number(field)
            if value != self._values.get(field.name):
                found[field.name] = value
        return found

    def _typed(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for typed in TYPED_AT_LOADING:
            if typed.name not in self._values:
                continue
            text = self.query_one(f"#{typed.name}", Input).value.strip()
            if text == self._values[typed.name]:
                continue
            if text:
                try:
                    typed.check(text)
                except UsageError as error:
                    raise _WrongError(typed.name, str(error)) from None
            found[typed.name] = text or None
        return found

    def _picked(self, choice: Choice) -> dict[str, Any]:
        if choice not in POLICIES_OF_DECODE and choice.name not in self._values:
            return {}
        picked = self.query_one(f"#{choice.name}", Select).value
        return {} if picked == self._values.get(choice.name) else {choice.name: picked}

    @on(Button.Pressed, "#cancel")
    def cancel(self) -> None:
        """Changes nothing."""
        self.dismiss(None)


class _WrongError(Exception):
    def __init__(self, name: str, why: str) -> None:
        self.name = name
        super().__init__(why)


def _wrong_number(field: Field) -> _WrongError:
    kind = "whole number" if field.whole else "number"
    return _WrongError(field.name, f"{field.words} needs a {kind}: {field.hint}")
