"""Harmony, in which gpt-oss answers: channels, each behind a header, told apart as mlx-lm's markers tell others'.

One answer holds several messages:

    <|channel|>analysis<|message|>reasoning<|end|>
    <|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>
    <|start|>assistant<|channel|>final<|message|>answer<|return|>

What a header says decides what its text is; mlx-lm's state machine cannot look into one, so this does.
"""

from __future__ import annotations

import json
import re

from mlx_lm.generate import TextStateMachine
from mlx_lm.tokenizer_utils import TokenizerWrapper

NORMAL, REASONING, TOOL = "normal", "reasoning", "tool"
_HEADER, _BODY = "header", "body"
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>")
_MACHINE = TextStateMachine({_HEADER: [("<|message|>", _BODY)], _BODY: [(end, _HEADER) for end in _ENDS]})
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([\w.-]+)")
#: What an answer may begin with and still be in the header that the prompt has opened.
_OPENINGS = ("to=", "<|channel|>", "<|start|>")


def answers_in_channels(tokenizer: TokenizerWrapper) -> bool:
    """Returns whether a model answers in harmony, by the template that it comes with."""
    template = tokenizer.chat_template
    known = tokenizer.has_thinking or tokenizer.response_transitions
    return not known and isinstance(template, str) and "<|channel|>" in template and "<|message|>" in template


class Channels:
    """Splits one answer's text; calls come out as JSON with `name` and `arguments`, the form mlx-lm's parser takes."""

    def __init__(self) -> None:
        self._state = _MACHINE.make_state(_HEADER)
        self._header, self._opening, self._kind = "", True, NORMAL

    def split(self, text: str) -> list[tuple[str, str]]:
        """Takes text and returns it by kind, headers left out; what may be half a marker waits."""
        self._state, segments = TextStateMachine.split(self._state, text)
        parts: list[tuple[str, str]] = []
        before: str | None = None
        for state, segment in segments:
            if before == _HEADER:
                parts += self._begin()
            elif before == _BODY:
                parts += self._end()
            if state == _HEADER:
                self._header += segment
            elif segment:
                parts.append((self._kind, segment))
            before = state
        return parts + self._unopened()

    def flush(self) -> list[tuple[str, str]]:
        """Returns what waited, the answer being over; of a header without its text nothing is left."""
        self._state, held, state = TextStateMachine.flush(self._state)
        if state == _BODY:
            return [*([(self._kind, held)] if held else []), *self._end()]
        header, self._header = self._header + held, ""
        return [(NORMAL, header)] if self._opening and not header.lstrip().startswith("<|") else []

    def _begin(self) -> list[tuple[str, str]]:
        """A header is complete: its text begins."""
        header, self._header, self._opening = self._header, "", False
        called = _RECIPIENT.search(header)
        self._kind = TOOL if called else REASONING if "analysis" in header else NORMAL
        return [(TOOL, f'{{"name": {json.dumps(called[1])}, "arguments": ')] if called else []

    def _end(self) -> list[tuple[str, str]]:
        """A text is complete; another call is another part."""
        kind, self._kind = self._kind, NORMAL
        return [(TOOL, "}"), (NORMAL, "")] if kind == TOOL else []

    def _unopened(self) -> list[tuple[str, str]]:
        """Lets an answer go on as plain text that begins with no header at all."""
        if not self._opening or self._state[0] != _HEADER:
            return []
        said = self._header.lstrip()
        if any(opening.startswith(said[: len(opening)]) for opening in _OPENINGS):
            return []
        text, self._header, self._opening = self._header, "", False
        held = self._state[3]
        self._state = _MACHINE.make_state(_BODY)
        return [(NORMAL, text), *self.split(held)]
