"""The models there are, to be run: those on this machine, those that are known, and any of the hub by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from moe_mlx.catalogue.offers import KNOWN, Offer
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.terminal import harmless
from moe_mlx_tui.engine.orders import Load
from moe_mlx_tui.screens.bring import BringScreen

_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
HEADS = {True: "on this machine", False: "known, to be downloaded"}


class ModelsScreen(ModalScreen[Load | None]):
    """Enter runs the model, or offers to bring it; Esc closes. What is typed narrows the list.

    Args:
        find: Returns the models; called in a thread, for it reads headers.
        wanted: What is in the search field at first.
        running: The model that runs, marked in the list.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "close"),
        Binding("down", "move('cursor_down')", "down", priority=True),
        Binding("up", "move('cursor_up')", "up", priority=True),
        Binding("pagedown", "move('page_down')", "page down", priority=True),
        Binding("pageup", "move('page_up')", "page up", priority=True),
    ]

    def __init__(self, find: Callable[[], list[Offer]], *, wanted: str = "", running: str = "") -> None:
        super().__init__()
        self._find, self._wanted, self._model = find, wanted, running
        self._offers: list[Offer] | None = None
        self._shown: dict[str, Offer] = {}

    def compose(self) -> ComposeResult:
        """Search field, list, what is to be said of the line under the cursor."""
        with Vertical(classes="dialog models") as box:
            box.border_title = "models"
            yield Input(
                self._wanted, placeholder="search, or name a hub repository: owner/name", id="wanted", compact=True
            )
            yield OptionList(id="offers")
            yield Static("looking for models ...", id="detail")
            yield Static(
                Content.styled("Enter runs it, or brings it from the hub; Esc closes", "$foreground-muted"),
                classes="keys",
            )

    def on_mount(self) -> None:
        """Begins to look."""
        self.query_one("#wanted", Input).focus()
        self.run_worker(self._look, thread=True, exit_on_error=False)

    def _look(self) -> None:
        try:
            found = self._find()
        except Exception as error:  # a list that cannot be had must not end a conversation
            self.app.call_from_thread(self._say, str(error))
            return
        self.app.call_from_thread(self.show, found)

    def show(self, offers: Sequence[Offer]) -> None:
        """Takes in what was found."""
        if self.is_attached:
            self._offers = list(offers)
            self._list()

    @on(Input.Changed, "#wanted")
    def _list(self) -> None:
        """Lists what the search field asks for."""
        if self._offers is None:
            return
        text = self.query_one("#wanted", Input).value.strip()
        found = [
            offer for offer in self._offers if text.lower() in f"{offer.name} {offer.model} {offer.family}".lower()
        ]
        if _REPO.fullmatch(text) and text.lower() not in {offer.model.lower() for offer in found}:
            found.append(Offer(text, text, KNOWN, "hub"))
        box = self.query_one("#offers", OptionList)
        box.clear_options()
        self._shown = {str(place): offer for place, offer in enumerate(found)}
        options: list[Option] = []
        for here, head in HEADS.items():
            group = [(place, offer) for place, offer in self._shown.items() if offer.here == here]
            if group:
                options.append(Option(Content.styled(head, "$primary"), disabled=True))
                options += [Option(self._line(offer), id=place) for place, offer in group]
        box.add_options(options)
        if found:
            box.action_first()
        else:
            self._say("no model is called that; a hub repository is written owner/name")

    def _line(self, offer: Offer) -> Content:
        running = ("  running", "$success") if offer.model == self._model else ""
        return Content.assemble((harmless(offer.name), "bold"), running, "\n", (figures(offer), "$foreground-muted"))

    @on(OptionList.OptionHighlighted)
    def _explain(self, event: OptionList.OptionHighlighted) -> None:
        offer = self._shown.get(event.option.id or "")
        if offer is not None:
            why = offer.guess.why_not if offer.guess is not None else ""
            self._say(offer.problem or why or offer.path or f"{offer.model}: not on this machine")

    def _say(self, text: str) -> None:
        if self.is_attached:
            self.query_one("#detail", Static).update(Content(harmless(text)))

    def action_move(self, how: str) -> None:
        """Moves the cursor in the list, wherever the focus is."""
        getattr(self.query_one("#offers", OptionList), f"action_{how}")()

    @on(Input.Submitted, "#wanted")
    def _enter(self) -> None:
        box = self.query_one("#offers", OptionList)
        if box.highlighted is not None:
            self._choose(box.get_option_at_index(box.highlighted).id)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self._choose(event.option.id)

    def _choose(self, place: str | None) -> None:
        offer = self._shown.get(place or "")
        if offer is None:
            return
        if not offer.here or offer.form == "to convert" or (offer.problem and offer.place == "hub cache"):
            self.app.push_screen(BringScreen(offer), self._brought)
        elif offer.problem:
            self.notify(harmless(offer.problem), severity="error", markup=False)
        else:
            self.dismiss(Load(offer.model))

    def _brought(self, model: str | None) -> None:
        if model:
            self.dismiss(Load(model))


def figures(offer: Offer) -> str:
    """Returns a model's sizes and what fits, in one line; what one chooses by comes first, for the line may be cut."""
    guess = offer.guess
    if guess is None:
        return offer.form
    form = [offer.form] if offer.here else []
    shape = f"{offer.layers}x{offer.experts} top-{offer.top_k}"
    fits = f"fits: {guess.words}" if guess.fits else guess.words
    speed = [] if guess.tps is None else [f"~{guess.tps:.1f} t/s"]
    return " · ".join([show_bytes(offer.nbytes), fits, *speed, harmless(offer.family), shape, *form])
