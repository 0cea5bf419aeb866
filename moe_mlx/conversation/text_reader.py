"""From tokens to text: reasoning, tool calls and plain text told apart, and the text that ends an answer looked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mlx_lm.generate import TextStateMachine, make_text_state_machine
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.conversation.channels import NORMAL, REASONING, TOOL, Channels, answers_in_channels
from moe_mlx.conversation.tool_format import MARKERS

#: A run of text and what it is: NORMAL, REASONING or TOOL.
Part = tuple[str, str]


class StopTexts:
    """Looks for texts that end an answer; text that may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.found: str | None = None
        self._held = ""
        self._longest = max(map(len, self.stops), default=0)

    def feed(self, text: str) -> str:
        """Takes text and returns what may be shown of it and of what was held back before."""
        if not self.stops:
            return text
        whole = self._held + text
        # The one that is complete first, as if characters came one by one: however the text was cut into pieces.
        places = [(place + len(stop), place, stop) for stop in self.stops if (place := whole.find(stop)) >= 0]
        if places:
            _, place, self.found = min(places)
            self._held = ""
            return whole[:place]
        for size in range(min(self._longest - 1, len(whole)), 0, -1):
            if any(stop.startswith(whole[-size:]) for stop in self.stops):
                self._held = whole[-size:]
                return whole[:-size]
        self._held = ""
        return whole

    def rest(self) -> str:
        """Returns what was held back: the answer is over, so no stop begins there."""
        held, self._held = self._held, ""
        return held


class Splitter(Protocol):
    """Tells the kinds of text of one answer apart."""

    def split(self, text: str) -> list[Part]:
        """Takes text and returns it by kind, markers left out; what may be half a marker waits."""

    def flush(self) -> list[Part]:
        """Returns what waited, the answer being over."""


class Marked:
    """Splits by markers, as mlx-lm's state machine does. Text in a state of a family's own (a header) is left out."""

    def __init__(self, machine: TextStateMachine, state: str) -> None:
        self._state, self._unsaid, self._said = machine.make_state(state), "", False

    def split(self, text: str) -> list[Part]:
        """Takes text and returns it by kind."""
        self._state, segments = TextStateMachine.split(self._state, text)
        return self._kinds(segments)

    def flush(self) -> list[Part]:
        """Returns what waited; an answer that never left its first header is given back as it came."""
        self._state, held, state = TextStateMachine.flush(self._state)
        parts = self._kinds([(state or NORMAL, held)])
        if not self._said:
            parts, self._unsaid = [(NORMAL, self._unsaid)], ""
        return parts

    def _kinds(self, segments: Sequence[tuple[str | None, str]]) -> list[Part]:
        parts: list[Part] = []
        for state, text in segments:
            kind = state or NORMAL
            if kind in (NORMAL, REASONING, TOOL):
                self._said = True
                parts.append((kind, text))
            elif not self._said:
                self._unsaid += text
        return parts


class TextReader:
    """Reads one answer.

    Attributes:
        stop_sequence: The text that ended it, if one did.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        stops: Sequence[str] = (),
        state: str = NORMAL,
        *,
        markers: tuple[str, str] | None = None,
        tools: bool = False,
        raw: bool = False,
    ) -> None:
        """Begins in a state.

        Args:
            tokenizer: Of the model.
            stops: Texts that end the answer, looked for in plain text.
            state: What the prompt ends in, as `opening_state` says it.
            markers: What stands around a tool call where the tokenizer does not know it, else None.
            tools: Whether tool calls are told apart; otherwise they are text like any other.
            raw: Whether nothing is told apart.
        """
        self._detokenizer = tokenizer.detokenizer
        self._stops, self._tools = StopTexts(stops), tools
        own = (tokenizer.tool_call_start or "", tokenizer.tool_call_end or "")
        self._around = own if tokenizer.has_tool_calling else ("", "")
        self._splitter: Splitter
        if not raw and state == NORMAL and answers_in_channels(tokenizer):
            self._splitter, self._around = Channels(), MARKERS
        else:
            machine = TextStateMachine() if raw else _machine(tokenizer, markers if tools else None)
            self._splitter = Marked(machine, state)
        self._last = state

    @property
    def stop_sequence(self) -> str | None:
        """The text that ended the answer."""
        return self._stops.found

    def take(self, token: int) -> list[Part]:
        """Takes one token; returns text by kind. Characters that are not whole yet wait."""
        self._detokenizer.add_token(token)
        return self.read(self._detokenizer.last_segment)

    def finish(self) -> list[Part]:
        """Returns what is left when the answer is over."""
        if self._stops.found is not None:
            return []
        self._detokenizer.finalize()
        parts = self.read(self._detokenizer.last_segment)
        if self._stops.found is not None:
            return parts
        parts += self._by_kinds(self._splitter.flush())
        if self._stops.found is None and (rest := self._stops.rest()):
            parts.append((NORMAL, rest))
        return [part for part in parts if part[1]]

    def read(self, text: str) -> list[Part]:
        """Takes text, where tokens have been made text already; returns it by kind."""
        return self._by_kinds(self._splitter.split(text)) if text else []

    def _by_kinds(self, segments: Sequence[Part]) -> list[Part]:
        parts: list[Part] = []
        for kind, segment in segments:
            parts += self._by_kind(kind, segment)
            if self._stops.found is not None:
                break
        return parts

    def _by_kind(self, state: str, text: str) -> list[Part]:
        if not self._tools and TOOL in (state, self._last) and state != self._last:  # give the markers back
            text = self._around[0] + text if state == TOOL else self._around[1] + text
        changed, self._last = state != self._last, state
        if state == TOOL and self._tools:
            return [(TOOL, text)] if text or changed else []
        if state == REASONING:
            return [(REASONING, text)] if text else []
        text = self._stops.feed(text)
        return [(NORMAL, text)] if text or (changed and self._tools) else []


def opening_state(tokenizer: TokenizerWrapper, prompt: Sequence[int]) -> str:
    """Returns what an answer to a prompt begins in: reasoning, where the template has opened it."""
    state = NORMAL
    if tokenizer.has_thinking and tokenizer.rfind_think_start(prompt) > tokenizer.rfind_think_end(prompt):
        state = REASONING
    return str(tokenizer.response_initial_state or state)


def _machine(tokenizer: TokenizerWrapper, markers: tuple[str, str] | None) -> TextStateMachine:
    if markers is None or tokenizer.has_tool_calling:
        return make_text_state_machine(tokenizer)
    start, end = markers
    transitions = {NORMAL: [(start, TOOL)], TOOL: [(end, NORMAL)]}
    if tokenizer.has_thinking:
        transitions[NORMAL].append((tokenizer.think_start, REASONING))
        transitions[REASONING] = [(tokenizer.think_end, NORMAL), (start, TOOL)]
    return TextStateMachine(transitions)
