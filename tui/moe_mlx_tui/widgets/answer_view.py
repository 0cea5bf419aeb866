"""One answer: streamed Markdown, thinking folded, tool calls shown, its receipt below."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.markup import escape
from textual.style import Style
from textual.widgets import Collapsible, Markdown, Static
from textual.widgets.markdown import MarkdownStream

from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.terminal import harmless
from moe_mlx_tui.drawing.sections import SAID, THOUGHT, Section, split, tool_body, tool_title
from moe_mlx_tui.engine.snapshot import ModelFacts, TurnReceipt
from moe_mlx_tui.sturdy import Sturdy

_NO_TAGS = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")


def version_mark(place: int | None, number: int, count: int) -> Content:
    """Returns which version of a turn is shown, its arrows to be clicked; nothing where there is one."""
    if place is None or count < 2:
        return Content("")
    before, after = (
        Content.styled(sign, Style.from_meta({"@click": f"app.browse({step}, {place})"}))
        for step, sign in ((-1, "‹"), (1, "›"))
    )
    return Content.assemble("  ", before, (f" {number}/{count} ", "$accent"), after)


class AnswerView(Sturdy, Vertical):
    """Grows with the text it is shown; never re-renders what stands.

    Attributes:
        place: Its number in the conversation; None once it is no part of it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(classes="answer")
        self.who = name
        self.text = ""
        self.place: int | None = None
        self._bodies: list[Markdown] = []
        self._streams: list[MarkdownStream | None] = []
        self._written: list[str] = []
        self._done = False

    def compose(self) -> ComposeResult:
        """Who answers."""
        yield Static(Content(harmless(self.who)), classes="who")

    def call(self, name: str) -> None:
        """Says who answers, once that is known."""
        if name != self.who:
            self.who = name
            self.mark(1, 1)

    def mark(self, number: int, count: int) -> None:
        """Says which of its versions this is."""
        which = version_mark(self.place, number, count)
        self.query_one(".who", Static).update(Content.assemble(harmless(self.who), which))

    async def show(self, text: str, facts: ModelFacts | None, *, final: bool = False) -> None:
        """Shows the answer so far; `final` ends the streams."""
        if self._done or (text == self.text and not final):
            return
        self.text = text
        thinking, tools = (facts.thinking, facts.tools) if facts is not None else _NO_TAGS
        for place, section in enumerate(split(harmless(text), thinking, tools, final=final)):
            if place == len(self._bodies):
                await self._open(section)
            await self._grow(place, section)
        if final:
            self._done = True
            for place in range(len(self._bodies)):
                await self._end(place)

    async def _open(self, section: Section) -> None:
        body = Markdown("", open_links=False)
        if section.kind == SAID:
            await self.mount(body)
        else:
            title = "thinking ..." if section.kind == THOUGHT else "tool call"
            fold = Collapsible(body, title=title, collapsed=section.kind == THOUGHT, classes=section.kind)
            await self.mount(fold)
        self._bodies.append(body)
        self._streams.append(Markdown.get_stream(body))
        self._written.append("")

    async def _grow(self, place: int, section: Section) -> None:
        written, stream = self._written[place], self._streams[place]
        if stream is None:
            return
        if section.kind not in (SAID, THOUGHT):
            if section.closed:
                self._written[place] = tool_body(section.text)
                self._fold(place, tool_title(section.text))
                await stream.write(self._written[place])
                await self._end(place)
            return
        if section.text != written:
            self._written[place] = section.text
            await stream.write(section.text[len(written) :])
        if section.closed:
            await self._end(place)
            if section.kind == THOUGHT:
                self._fold(place, f"thought, {len(section.text.split())} words")

    def _fold(self, place: int, title: str) -> None:
        for ancestor in self._bodies[place].ancestors:
            if isinstance(ancestor, Collapsible):
                ancestor.title = escape(title)  # a model names its tools, and titles are read as markup
                return

    async def _end(self, place: int) -> None:
        stream = self._streams[place]
        if stream is None:
            return
        self._streams[place] = None
        await stream.stop()
        body = self._bodies[place]
        if body.source != self._written[place]:
            await body.update(self._written[place])

    async def finish(self, receipt: TurnReceipt | None, error: str = "") -> None:
        """Writes the receipt, or what went wrong."""
        if error:
            await self.mount(Static(Content.assemble(("✗ ", "bold $error"), error), classes="error"))
        elif receipt is not None:
            await self.mount(Static(receipt_line(receipt), classes="receipt"))

    def toggle_thinking(self) -> None:
        """Unfolds what was thought, or folds it."""
        for fold in self.query(Collapsible):
            fold.collapsed = not fold.collapsed

    async def on_unmount(self) -> None:
        """Ends the streams."""
        for stream in self._streams:
            if stream is not None:
                await stream.stop()


def receipt_line(receipt: TurnReceipt) -> Content:
    """Returns an answer's figures in a line or two."""
    finish = {"stop": "", "length": " · cut at max tokens", "cancelled": " · stopped"}.get(receipt.finish, "")
    kept = f" ({receipt.reused_tokens} kept)" if receipt.reused_tokens else ""
    words = [f"{receipt.tokens} tokens, {receipt.tps:.1f}/s"]
    if receipt.counted:
        words += [
            f"prompt {receipt.prompt_tokens}{kept}",
            f"hit {receipt.hit_rate:.0%}",
            f"swapped {receipt.swapped_share:.1%}",
            *([f"late {receipt.late_share:.1%}"] if receipt.late_share else []),
            *([f"coarse {receipt.coarse_share:.1%}"] if receipt.coarse_share else []),
            f"read {show_bytes(receipt.bytes_read + receipt.prompt_bytes_read)}",
            f"waited {receipt.wait_seconds:.2f} s",
            *([receipt.drafts] if receipt.drafts else []),
            *([f"profile {receipt.profile}"] if receipt.profile else []),
            *([f"experts of {receipt.bits}"] if receipt.bits else []),
        ]
    else:
        words.append("hits and reads unknown")
    line = Content.styled(" · ".join(words), "$foreground-muted")
    if finish:
        line = Content.assemble(line, (finish, "$warning"))
    if receipt.refilled:
        line = Content.assemble(line, "\n", (receipt.refilled, "$warning"))
    for machine in receipt.machines:
        line = Content.assemble(line, "\n", (machine, "$foreground-disabled"))
    return line
