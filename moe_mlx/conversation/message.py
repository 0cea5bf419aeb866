"""One message of a conversation, as chat templates take it: an answer's content, reasoning and calls stand apart."""

from __future__ import annotations

import json
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.conversation.answer_text import AnswerText
from moe_mlx.conversation.channels import NORMAL, REASONING
from moe_mlx.conversation.text_reader import TextReader
from moe_mlx.loading.tokenizer import THOUGHTS

#: `role` and `content`; an answer has `reasoning_content` (may be empty) too, and `tool_calls` where it made some.
Message = dict[str, Any]


def answer_message(answer: AnswerText) -> Message:
    """Returns the message of an answer that is over."""
    message: Message = {"role": "assistant", "content": answer.text, THOUGHTS[0]: answer.thought}
    if answer.calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in answer.calls
        ]
    return message


def apart(tokenizer: TokenizerWrapper, message: Message) -> Message:
    """Returns a message whose reasoning and calls stand apart, told by the model's own markers where they do not yet.

    Reasoning that the prompt opened has its end alone in the text; what stands before that is reasoning.
    """
    text = message["content"]
    if message["role"] != "assistant" or THOUGHTS[0] in message or "tool_calls" in message or not isinstance(text, str):
        return message
    end = tokenizer.think_end or ""
    opened = bool(end) and text.find(end) > -1 and not -1 < text.find(str(tokenizer.think_start)) < text.find(end)
    state = REASONING if opened else str(tokenizer.response_initial_state or NORMAL)
    reader = TextReader(tokenizer, state=state, tools=True)
    answer = AnswerText(tokenizer)
    answer.take(reader.read(text) + reader.finish())
    answer.finish()
    return {**message, **answer_message(answer)}
