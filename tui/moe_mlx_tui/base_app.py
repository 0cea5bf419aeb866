"""What chat and replay share: the screen, the timer that samples snapshots, the map, help and themes."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widget import Widget

from moe_mlx.system.terminal import harmless
from moe_mlx_tui.drawing.arrangement import BESIDE_FROM
from moe_mlx_tui.drawing.pace import Pace
from moe_mlx_tui.drawing.themes import EMBER, PAPER
from moe_mlx_tui.drawing.trends import Trends
from moe_mlx_tui.engine.orders import Source
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.palette import Actions
from moe_mlx_tui.screens.help import HelpScreen
from moe_mlx_tui.screens.stats import StatsScreen
from moe_mlx_tui.terminal_app import TerminalApp
from moe_mlx_tui.widgets.map_strip import MapStrip
from moe_mlx_tui.widgets.progress_line import ProgressLine
from moe_mlx_tui.widgets.side_panel import SidePanel
from moe_mlx_tui.widgets.status_bar import StatusBar
from moe_mlx_tui.widgets.transcript import Transcript
from moe_mlx_tui.widgets.welcome import Welcome

#: Snapshots shown a second; over SSH every frame is bytes on a wire.
RATE, RATE_SSH = 5, 4
SWAPPED, THEATRE = "-swapped", "-theatre"
#: Rows of the screen from which the map's strip has three of its own.
STRIP_FROM = 16


def sampling_rate() -> int:
    """Returns how often the screen looks for a new snapshot, a second."""
    remote = os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY")
    return RATE_SSH if remote else RATE


class MoeApp(TerminalApp):
    """Shows the snapshots of a source. Without `poll` somebody else calls `tick` (tests do)."""

    CSS_PATH = Path(__file__).with_name("app.tcss")  # Textual would look beside the subclass
    TITLE = "moe-mlx"
    COMMANDS: ClassVar = {Actions}
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (80, "-narrow"), (BESIDE_FROM, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+g", "swap_map", "map", show=False),
        Binding("f4", "theatre", "theatre", show=False),
        Binding("f1", "help", "keys", show=False),
        Binding("question_mark", "help", "keys", show=False),
        Binding("ctrl+z", "suspend", "suspend", show=False, priority=True),
        Binding("ctrl+q", "leave", "leave", show=False, priority=True),
    ]
    #: Name, help and action of each line of the palette.
    ACTIONS: ClassVar[tuple[tuple[str, str, str], ...]] = ()
    _COMMON: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("map: in or out", "Ctrl+G; on a narrow screen it takes the conversation's place", "swap_map"),
        ("map: theatre", "F4 or /theatre: it fills the screen, the answer streams below; Esc returns", "theatre"),
        ("map: zoom", "z on the map: tiles, cells, half blocks, Braille, plain", "zoom_map"),
        ("map: point at an expert", "arrows move, Esc leaves", "point"),
        ("stats", "/stats: hits, misses, reads, waits since the model was loaded", "stats"),
        ("theme", "colours", "change_theme"),
        ("keys", "F1 or ?", "help"),
        ("screenshot", "save the screen as SVG in the folder for downloads", "screenshot"),
        ("suspend", "Ctrl+Z: back to the shell; fg goes on", "suspend"),
        ("leave", "Ctrl+Q", "leave"),
    )

    def __init__(
        self, source: Source, *, plain: bool = False, poll: bool = True, theme_name: str | None = None
    ) -> None:
        super().__init__(plain=plain)
        self.source, self._poll, self._theme_name = source, poll, theme_name
        self.shown: Snapshot | None = None
        self.trends = Trends()
        self.sampling: Timer | None = None
        self.pace = Pace()
        self.side = SidePanel(plain=plain, id="side")
        self.strip = MapStrip(plain=plain, id="strip")
        self.progress = ProgressLine(plain=plain, id="progress")
        self.status = StatusBar(plain=plain, id="status")
        self.transcript = Transcript(id="transcript")
        self.welcome = Welcome(plain=plain, live=source.live)

    def compose(self) -> ComposeResult:
        """Conversation on the left, cache on the right, one line below."""
        with Horizontal(id="body"):
            with Vertical(id="talk"):
                with self.transcript:
                    yield self.welcome
                yield self.strip
                yield self.progress
                yield self.entry()
            yield self.side
        yield self.status

    def entry(self) -> Widget:
        """Returns what stands below the conversation."""
        raise NotImplementedError

    async def on_mount(self) -> None:
        """Sets the theme, starts the source and the timer."""
        self.register_theme(EMBER)
        self.register_theme(PAPER)
        known = self._theme_name in self.available_themes
        self.theme = self._theme_name if known and self._theme_name else EMBER.name
        if self._theme_name and not known:
            said = f"no theme is called {self._theme_name}; Ctrl+P, theme, lists them"
            self.notify(harmless(said), severity="warning", markup=False)
        if not self.is_headless:
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)
        await self.begin()
        self.source.start()
        if self._poll:
            self.sampling = self.set_interval(1 / sampling_rate(), self._sample)

    async def begin(self) -> None:
        """Prepares the screen before the first snapshot."""

    def _puts_off(self, latest: Snapshot) -> bool:
        """Whether to leave a snapshot out: nothing happened in it but that the model went on, and drawing costs."""
        shown = self.shown
        going_on = shown is not None and latest.busy and (latest.phase, latest.turn) == (shown.phase, shown.turn)
        return going_on and self.source.live and not self.pace.due

    async def _sample(self) -> None:
        latest = self.source.latest
        if self._puts_off(latest):
            return
        if latest is not self.shown:
            self.pace.take()
        try:
            await self.tick()
        except Exception as error:  # a timer would end the app with it
            if not self.survives:
                raise
            self.mishap(error)

    async def tick(self) -> None:
        """Shows the latest snapshot, if it is a new one."""
        snapshot = self.source.latest
        if snapshot is self.shown:
            return
        if self.shown is not None and snapshot.model != self.shown.model:
            self.trends = Trends()
        self.shown = snapshot
        self.trends.feed(snapshot)
        self.side.show(snapshot, self.trends)
        self.strip.show(snapshot)
        self.progress.show(snapshot)
        if self.welcome.is_attached:
            self.welcome.show(snapshot)
        await self.follow(snapshot)
        self.status.show(snapshot, self.context_used(snapshot))
        self.transcript.stick()
        self.transcript.call_after_refresh(self.transcript.stick)  # what is new is no row high until it is laid out

    async def show_welcome(self) -> None:
        """Shows what an empty conversation shows."""
        if not self.welcome.is_attached:
            self.welcome = Welcome(plain=self.plain, live=self.source.live)
            await self.transcript.mount(self.welcome)
        if self.shown is not None:
            self.welcome.show(self.shown)

    def context_used(self, snapshot: Snapshot) -> int:
        """Returns the tokens of the conversation that is shown."""
        return snapshot.context

    async def follow(self, snapshot: Snapshot) -> None:
        """Brings the conversation up to a snapshot."""

    def watch_theme(self, theme_name: str) -> None:
        """Draws the map in the theme's colours."""
        if self.shown is not None:
            self.side.residency.repaint()
            self.strip.repaint()

    def on_resize(self, event: events.Resize) -> None:
        """Gives the map what the conversation can spare."""
        self.side.fit(event.size, theatre=self.in_theatre)
        self.strip.styles.height = 3 if event.size.height >= STRIP_FROM else 1

    @property
    def in_theatre(self) -> bool:
        """Whether the map fills the screen."""
        return self.screen_stack[0].has_class(THEATRE)

    @property
    def narrow(self) -> bool:
        """Whether map and conversation share one place."""
        return self.size.width < BESIDE_FROM

    @property
    def talk_in_view(self) -> bool:
        """Whether the conversation can be seen; what cannot be seen need not be streamed."""
        return self.in_theatre or not (self.narrow and self.screen_stack[0].has_class(SWAPPED))

    def action_theatre(self) -> None:
        """Lets the map fill the screen, but for the end of the conversation and the prompt; and back."""
        screen = self.screen_stack[0]
        screen.toggle_class(THEATRE)
        body, talk = screen.query_one("#body"), screen.query_one("#talk")
        if self.in_theatre:
            screen.remove_class(SWAPPED)
            body.move_child(self.side, before=talk)
        else:
            body.move_child(self.side, after=talk)
        self.side.fit(self.size, theatre=self.in_theatre)
        self.focus_entry()

    def action_swap_map(self) -> None:
        """Puts the map in the conversation's place on a narrow screen, takes it away on a wide one, and back."""
        if self.in_theatre:
            self.action_theatre()
            return
        screen = self.screen_stack[0]
        screen.toggle_class(SWAPPED)
        if self.narrow and screen.has_class(SWAPPED):
            self.side.residency.map.focus()
        else:
            self.focus_entry()

    def focus_entry(self) -> None:
        """Goes back to where one types."""

    def action_zoom_map(self) -> None:
        """Draws the map in another way."""
        self.side.residency.map.action_zoom()

    def action_point(self) -> None:
        """Puts the cursor on the map, which is brought in if need be."""
        screen = self.screen_stack[0]
        if not self.in_theatre and self.narrow != screen.has_class(SWAPPED):
            screen.toggle_class(SWAPPED)
        self.side.residency.map.focus()
        self.side.residency.map.action_move(0, 0)

    def action_help(self) -> None:
        """Shows the keys."""
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(live=self.source.live))

    def action_stats(self) -> None:
        """Shows the counts since the model was loaded."""
        if self.shown is None or self.shown.model is None:
            self.notify("There are counts when the model is loaded.", severity="warning")
        elif not isinstance(self.screen, StatsScreen):
            self.push_screen(StatsScreen(self.shown))

    def action_help_quit(self) -> None:
        """Ctrl+C where nothing is selected: says what leaves, for a stray one must not end a conversation."""
        self.notify("Ctrl+Q leaves.", timeout=3)

    def action_leave(self) -> None:
        """Leaves."""
        self.exit(0)

    def set_cap(self, expert_cache: str) -> None:
        """Changes the cap."""

    def set_routing(self, **changes: object) -> None:
        """Changes the routing."""

    def set_sampling(self, **changes: object) -> None:
        """Changes the sampling."""
