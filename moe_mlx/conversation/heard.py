"""What an answer has said so far: as it came, and told apart."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.conversation.answer_text import AnswerText
from moe_mlx.conversation.message import Message, answer_message
from moe_mlx.conversation.text_reader import Part, TextReader, opening_state


class Heard:
    """Takes an answer's text.

    Attributes:
        said: All of it, as it came.
    """

    def __init__(self, tokenizer: TokenizerWrapper, prompt: Sequence[int], *, raw: bool) -> None:
        """Begins an answer to a prompt; `raw` where it is plain text, whatever markers it has."""
        self.said = ""
        self._reader = TextReader(tokenizer, state=opening_state(tokenizer, prompt), tools=not raw, raw=raw)
        self._text = AnswerText(tokenizer)

    def take(self, text: str, *, last: bool) -> tuple[Part, ...]:
        """Takes text and returns it by kind; with the last of it everything that waited."""
        self.said += text
        parts = self._reader.read(text)
        if last:
            parts += self._reader.finish()
        self._text.take(parts)
        return tuple(parts)

    def message(self) -> Message:
        """Returns the answer as a message; nothing more will be said."""
        self._text.take(self._reader.finish())
        self._text.finish()
        return answer_message(self._text)
