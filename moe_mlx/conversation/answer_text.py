"""What an answer says, piece by piece: text, reasoning, and tool calls once they are complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.conversation.channels import REASONING, TOOL
from moe_mlx.conversation.tool_format import MARKERS, Call, parse_calls, written


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning."""

    text: str


Delta = Text | Thought | Call


@dataclass
class AnswerText:
    """Reads one answer's pieces.

    Attributes:
        text: All of its plain text so far.
        thought: All of its reasoning.
        calls: Its calls.
    """

    tokenizer: TokenizerWrapper
    tools: Sequence[dict[str, Any]] = ()
    forced: bool = False
    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    _call: str | None = None

    def __post_init__(self) -> None:
        self._call = "" if self.forced else None

    def take(self, parts: Sequence[tuple[str, str]]) -> list[Delta]:
        """Takes text by kind, as `TextReader` returns it, and returns what is new."""
        deltas: list[Delta] = []
        for kind, text in parts:
            if kind == TOOL:
                self._call = (self._call or "") + text
                continue
            deltas += self._called(whole=True)
            if text:
                deltas.append(Thought(text) if kind == REASONING else Text(text))
        return self._note(deltas)

    def finish(self) -> list[Delta]:
        """Returns what is left when the answer is over."""
        return self._note(self._called(whole=False))

    def _called(self, *, whole: bool) -> list[Delta]:
        """Reads a call that is complete; what is none is text, with its markers, so that nothing is lost."""
        if self._call is None:
            return []
        text, self._call = self._call, None
        calls = parse_calls(text, self.tokenizer, self.tools)
        if calls is not None:
            return list(calls)
        own = (self.tokenizer.tool_call_start or "", self.tokenizer.tool_call_end or "")
        start, end = MARKERS if written(self.tokenizer) else own
        return [Text(start + text + (end if whole else ""))]

    def _note(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            if isinstance(delta, Text):
                self.text += delta.text
            elif isinstance(delta, Thought):
                self.thought += delta.text
            else:
                self.calls.append(delta)
        return deltas
