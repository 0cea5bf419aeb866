"""Brings a model here: downloads it, then offers to convert it. Both can be stopped and gone on with."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, ProgressBar, Static

from moe_mlx.catalogue.found import DEFAULT_FOLDERS
from moe_mlx.catalogue.offers import Offer
from moe_mlx.errors import MoeMlxError
from moe_mlx.store.files import expanded
from moe_mlx.system.config import model_folders
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.terminal import harmless
from moe_mlx_tui.engine.verb_process import Ended, VerbProcess

#: What it is at, and the buttons that makes.
ASKING, DOWNLOADING, ARRIVED, CONVERTING, READY, STOPPED = (
    "asking",
    "downloading",
    "arrived",
    "converting",
    "ready",
    "stopped",
)
BUTTONS = {
    ASKING: ("download", "close"),
    DOWNLOADING: ("stop",),
    ARRIVED: ("convert", "run", "close"),
    CONVERTING: ("stop",),
    READY: ("run", "close"),
    STOPPED: ("again", "close"),
}
LABELS = {
    "download": "Download",
    "stop": "Stop",
    "convert": "Convert",
    "run": "Run it",
    "again": "Go on",
    "close": "Close",
}


class BringScreen(ModalScreen[str | None]):
    """Returns the model to run, or None. Esc stops what is under way, else closes."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "stop or close")]

    def __init__(self, offer: Offer, start: Callable[[tuple[str, ...]], VerbProcess] = VerbProcess) -> None:
        super().__init__()
        self.offer, self._start = offer, start
        self.model = offer.model
        self.stage = ARRIVED if offer.form == "to convert" else ASKING
        self._process: VerbProcess | None = None
        self._again = DOWNLOADING
        self._recent: list[tuple[float, int]] = []

    @property
    def store(self) -> Path:
        """Where the converted model goes: the first of the user's folders."""
        try:
            folders = model_folders() or DEFAULT_FOLDERS
        except MoeMlxError:
            folders = DEFAULT_FOLDERS
        return expanded(folders[0]) / Path(self.model).name

    def compose(self) -> ComposeResult:
        """What it is about, how far it is, what can be done."""
        with Vertical(classes="dialog bring") as box:
            box.border_title = "a model from the hub"
            yield Static(id="about")
            yield ProgressBar(total=1, show_eta=False, id="bar")
            yield Static(id="figures")
            with Horizontal(classes="buttons"):
                for name, label in LABELS.items():
                    yield Button(label, id=name, compact=True)

    def on_mount(self) -> None:
        """Shows the first stage."""
        self._at(self.stage)

    def _at(self, stage: str, said: str = "") -> None:
        self.stage = stage
        name, size = (
            harmless(self.offer.name),
            show_bytes(self.offer.nbytes) if self.offer.nbytes else "its size is asked first",
        )
        about = {
            ASKING: f"{name} ({harmless(self.model)}) is not on this machine. Download {size} into the hub's cache?",
            DOWNLOADING: f"downloading {harmless(self.model)}; files that have arrived stay when it is stopped",
            ARRIVED: f"{name} is here. Converted, a miss is one checked read instead of several; "
            f"that takes a second copy on disk, {harmless(str(self.store))}.",
            CONVERTING: f"converting into {harmless(str(self.store))}; stopped, it can be gone on with",
            READY: f"{name} is ready: {harmless(str(self.model))}",
            STOPPED: f"not finished: {harmless(said)}",
        }
        self.query_one("#about", Static).update(Content(about[stage]))
        self.query_one("#bar").display = self.query_one("#figures").display = stage in (DOWNLOADING, CONVERTING)
        shown = [
            one for one in BUTTONS[stage] if not (one == "run" and stage == ARRIVED and self.offer.form == "to convert")
        ]
        for name in LABELS:
            self.query_one(f"#{name}", Button).display = name in shown
        self.query_one(f"#{shown[0]}", Button).focus()

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        name = event.button.id
        if name == "download":
            self._work(DOWNLOADING)
        elif name == "convert":
            self._work(CONVERTING)
        elif name == "again":
            self._work(self._again)
        elif name == "run":
            self.dismiss(str(self.model))
        elif name == "stop":
            self._stop()
        else:
            self.dismiss(None)

    def _work(self, stage: str) -> None:
        words = (
            ("fetch", self.model)
            if stage == DOWNLOADING
            else ("convert", "--model", self.model, "--mlx-path", str(self.store))
        )
        self._again, self._recent = stage, []
        self._process = process = self._start(words)
        self.query_one("#figures", Static).update("")
        self.query_one("#bar", ProgressBar).update(total=None, progress=0)
        self._at(stage)

        def run() -> None:
            ended = process.run(lambda row: self.app.call_from_thread(self._row, row))
            self.app.call_from_thread(self._ended, stage, ended)

        self.run_worker(run, thread=True, exit_on_error=False)

    def _row(self, row: dict[str, Any]) -> None:
        if not self.is_attached:
            return
        done, total = int(row["done"]), int(row["total"])
        now = time.monotonic()
        self._recent = [(at, count) for at, count in self._recent if now - at < 5 and count <= done] + [(now, done)]
        since, before = self._recent[0]
        rate = row.get("bytes_per_second") or ((done - before) / (now - since) if now > since else 0.0)
        self.query_one("#bar", ProgressBar).update(total=max(total, 1), progress=done)
        left = f", {int((total - done) / rate) // 60}:{int((total - done) / rate) % 60:02} left" if rate else ""
        line = f"{row.get('pass', '')} {show_bytes(done)} of {show_bytes(total)}, {show_bytes(rate)}/s{left}"
        self.query_one("#figures", Static).update(Content(line))

    def _ended(self, stage: str, ended: Ended) -> None:
        self._process = None
        if not self.is_attached:
            return
        if ended.code:
            self._at(STOPPED, ended.said or f"it ended with {ended.code}")
        elif stage == DOWNLOADING:
            self._at(READY if ended.result.get("form") == "store" else ARRIVED)
        else:
            self.model = str(self.store)
            self._at(READY)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def action_leave(self) -> None:
        """Stops what is under way; with nothing under way closes."""
        if self._process is not None:
            self._stop()
        else:
            self.dismiss(None)

    def on_unmount(self) -> None:
        """Leaves no process behind."""
        self._stop()
