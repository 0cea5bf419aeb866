"""Talks to a model, its expert cache alive beside the conversation. `--plain` is a line mode without the app."""

from __future__ import annotations

import argparse
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import FrameType
from typing import TYPE_CHECKING, Any

from moe_mlx.commands.model_arguments import add_machines_arguments
from moe_mlx.commands.session_arguments import add_session_arguments
from moe_mlx.conversation.joining import join
from moe_mlx.conversation.opening import open_session
from moe_mlx.conversation.slash import is_command, unknown
from moe_mlx.errors import MoeMlxError, UsageError
from moe_mlx.machines.launched import launched
from moe_mlx.machines.rank_lines import describe_ranks
from moe_mlx.system.terminal import for_reader, on_terminal, to_stderr
from moe_mlx.vlm.pictures import text_of, with_pictures

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Message, Session
    from moe_mlx.vlm.pictures import Picture

HELP = (
    "type a message; /image FILE shows a picture with the next one, /new starts over, /regenerate answers again, /undo "
    "goes back before either, /stats shows the cache, /quit leaves; Ctrl-C stops an answer"
)
LEAVE = ("/quit", "/exit")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx chat`."""
    parser.add_argument("--plain", action="store_true", help="line mode: no app, works on any terminal and in pipes")
    add_session_arguments(parser, max_tokens=1024, alone=True)
    add_machines_arguments(parser)
    if find_spec("moe_mlx_tui.arguments") is not None:
        from moe_mlx_tui.arguments import add_arguments as add_app_arguments

        add_app_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Opens the app on a terminal, the line mode elsewhere."""
    if getattr(args, "web", None) and args.plain:
        raise UsageError("--web and --plain contradict each other: give one")
    if args.parallel is not None:
        for option in ("web", "attach", "home"):
            if getattr(args, option, None):
                raise UsageError(f"--{option} and --parallel contradict each other: give one")
        if (found := launched()) is not None and found.rank:
            join(args, to_stderr)
            return 0
    if getattr(args, "web", None) or (not args.plain and on_terminal()):
        from moe_mlx_tui.app import run_app

        return int(run_app(args))
    for option in ("resume", "record", "attach", "home"):
        if getattr(args, option, None):
            raise UsageError(f"--{option} is the app's, and this is the line mode: leave it or --plain out")
    return line_mode(args)


def line_mode(args: argparse.Namespace) -> int:
    """Reads a message a line and answers; a status line on standard error follows each answer."""
    session: Session | None = open_session(args) if args.parallel is None else join(args, to_stderr)
    assert session is not None  # the other ranks have no lines to read
    talk = Conversation(session, args.system_prompt)
    interactive = sys.stdin.isatty()
    if interactive:
        print(HELP, file=sys.stderr)
    try:
        _talk(talk, interactive)
    finally:
        session.keep_prompt()
        session.close()
    return 0


def _talk(talk: Conversation, interactive: bool) -> None:
    """Takes lines until there are no more; an interrupt ends it where nobody sits before it."""
    while True:
        try:
            line = _next_line(talk.session, interactive)
        except EOFError:
            return
        except KeyboardInterrupt:
            if not interactive:  # whoever feeds this wants it to end
                raise
            print("\n/quit leaves", file=sys.stderr)
            continue
        if line in LEAVE:
            return
        if not line:
            continue
        before = list(talk.messages)
        try:
            talk.turn(line)
        except KeyboardInterrupt:
            if not interactive:
                raise
            talk.go_back(before, "interrupted")
        except Exception as error:  # whatever it is, what was said so far is kept
            talk.go_back(before, f"{type(error).__name__}: {error}")
        if talk.stopped and not interactive:
            raise KeyboardInterrupt


def _next_line(session: Session, interactive: bool) -> str:
    """Reads a line; until it is there, a warm-up that waits for idle time goes on."""
    if not session.runtime.warmup.pending:
        return input("> " if interactive else "").strip()
    if interactive:
        print("> ", end="", flush=True)
    session.runtime.warm_while_idle(lambda: bool(select.select([sys.stdin], [], [], 0)[0]), lambda line: None)
    return input().strip()


@contextmanager
def interrupts_set(stop: threading.Event) -> Iterator[None]:
    """Makes the first Ctrl-C ask for a stop at the next token, which keeps the prompt cache; a second one aborts."""

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class Conversation:
    """The messages so far, and what to do with the next line."""

    def __init__(self, session: Session, system_prompt: str | None) -> None:
        from moe_mlx.conversation.context import context_watch

        self.session, self.system_prompt = session, system_prompt
        self.context = context_watch(session)
        self.messages: list[Message] = []
        self.pictures: list[Picture] = []
        self.stopped = False
        self.past: list[list[Message]] = []
        self.commands: dict[str, Callable[[], None]] = {
            "/new": self.new,
            "/regenerate": self.regenerate,
            "/undo": self.undo,
            "/stats": self.stats,
            "/help": self.help,
        }
        self.messages = self.opening()

    def opening(self) -> list[Message]:
        """Returns what every conversation begins with."""
        return [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []

    def new(self) -> None:
        """Starts over; the system prompt stays, and `/undo` brings the old conversation back."""
        self.past.append(self.messages)
        self.messages = self.opening()
        self.session.forget()

    def regenerate(self) -> None:
        """Answers the latest message again; `/undo` brings the old answer back."""
        before = list(self.messages)
        if self.messages and self.messages[-1]["role"] == "assistant":
            self.messages = self.messages[:-1]
        if not self.messages or self.messages[-1]["role"] != "user":
            print("there is no message to answer again", file=sys.stderr)
            return
        self.past.append(before)
        if not self.answer():
            self.messages = self.past.pop()

    def undo(self) -> None:
        """Goes back before the last `/new` or `/regenerate`."""
        if not self.past:
            print("there is nothing to undo", file=sys.stderr)
            return
        self.messages = self.past.pop()
        last = text_of(self.messages[-1]["content"]) if self.messages else ""
        print(f"[back to {len(self.messages)} messages, the last: {one_line(last)}]", file=sys.stderr)

    def go_back(self, messages: list[Message], why: str) -> None:
        """Returns to the messages before something unexpected."""
        print(flush=True)
        print(f"error: {why}; the conversation before this line is kept: try again, or /quit", file=sys.stderr)
        self.messages = messages
        self.session.forget()

    def stats(self) -> None:
        """Prints the running totals of decode, and how reads went."""
        totals: Any = self.session.runtime.stats.decode
        reads = self.session.runtime.stats.reads
        print(
            f"[decode so far: {totals.tokens} tokens, hit {totals.hit_rate:.1%}, swapped {totals.swapped_share:.1%}, "
            f"{totals.disk_bytes} bytes read, {totals.read_backs} read-backs; {reads.reads} reads in all, {reads.io}: "
            f"{reads.depth_mean:.1f} at once, {reads.p50_us:.0f} us, 95% within {reads.p95_us:.0f}, "
            f"99% within {reads.p99_us:.0f}]",
            file=sys.stderr,
        )

    def show(self, path: str) -> None:
        """Takes a picture for the next message; without a name, leaves out those that wait for it."""
        from moe_mlx.vlm.pictures import read_picture

        if not path:
            print(f"[{len(self.pictures)} pictures left out]", file=sys.stderr)
            self.pictures = []
            return
        try:
            picture = read_picture(path)
        except MoeMlxError as error:
            print(f"error: {error}", file=sys.stderr)
            return
        self.pictures.append(picture)
        width, height = picture.size
        print(f"[{one_line(picture.name)}, {width} x {height}: goes with the next message]", file=sys.stderr)

    def help(self) -> None:
        """Prints what can be typed."""
        print(HELP, file=sys.stderr)

    def turn(self, line: str) -> None:
        """Does what one line asks."""
        if (command := self.commands.get(line)) is not None:
            command()
            return
        if line.partition(" ")[0] == "/image":
            self.show(line.partition(" ")[2].strip())
            return
        if is_command(line):
            print(unknown(line, [*self.commands, *LEAVE]), file=sys.stderr)
            return
        before = list(self.messages)
        content: Any = with_pictures(line, self.pictures) if self.pictures else line
        self.messages.append({"role": "user", "content": content})
        if self.answer():
            self.pictures = []
            return
        self.messages = before
        if self.pictures:
            names = ", ".join(one_line(picture.name) for picture in self.pictures)
            print(f"[{names} still waits for the next message; /image alone leaves it out]", file=sys.stderr)

    def answer(self) -> bool:
        """Answers the latest message; Ctrl-C keeps what was said so far. False where nothing came of it."""
        from moe_mlx.commands.generate import describe

        stop, shown = threading.Event(), for_reader()
        try:
            with interrupts_set(stop):
                for piece in self.session.answer(self.session.encode(self.messages), stop=stop):
                    print(shown(piece.text), end="", flush=True)
        except MoeMlxError as error:
            print(flush=True)
            print(f"error: {error}", file=sys.stderr)
            return False
        self.stopped = stop.is_set()
        if self.stopped:
            print(" [stopped]", end="")
        print(flush=True)
        answer = self.session.last
        assert answer is not None
        self.messages.append(answer.message)
        print(describe(self.session, answer), file=sys.stderr)
        for line in describe_ranks(self.session.machines()):
            print(f"[{line}]", file=sys.stderr)
        tokens = answer.prompt_tokens + len(answer.tokens)
        for line in filter(None, [answer.refilled, *self.context.remarks(tokens)]):
            print(f"[{line}]", file=sys.stderr)
        return True


def one_line(text: str, width: int = 60) -> str:
    """Returns the beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
