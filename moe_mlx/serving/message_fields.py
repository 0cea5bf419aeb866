"""The body of Anthropic's `/v1/messages`, and what it means in the words that chat templates use."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_mlx.serving.chat_fields import MAX_MESSAGES, MAX_TOOLS, NO_IMAGES, Name
from moe_mlx.serving.drawing_fields import MAX_STOPS, Count, DrawingFields, Fields, Share, Stop


class Block(Fields):
    """A block of content, of any kind; `cache_control` is left alone, prompts are cached anyway."""

    type: str = Field(max_length=64)
    text: str | None = None
    thinking: str | None = None
    id: str | None = Field(None, max_length=256)
    name: str | None = Field(None, max_length=256)
    input: dict[str, Any] | None = None
    tool_use_id: str | None = Field(None, max_length=256)
    content: str | list[Block] | None = None
    is_error: bool | None = None

    @model_validator(mode="after")
    def _known(self) -> Block:
        needs = {"text": self.text, "tool_use": self.name, "tool_result": self.tool_use_id, "thinking": self.thinking}
        if self.type in ("redacted_thinking", "tool_reference"):
            return self
        if self.type not in needs:
            raise ValueError(NO_IMAGES)
        if needs[self.type] is None:
            raise ValueError(f"a block of type {self.type} without what it is made of")
        return self

    @property
    def plain(self) -> str:
        """The text of a result."""
        if isinstance(self.content, list):
            return "".join(block.text or "" for block in self.content)
        return self.content or ""


class Turn(Fields):
    """One message."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]

    def plain(self) -> list[dict[str, Any]]:
        """Returns the messages that chat templates make of it: results are messages of their own."""
        if isinstance(self.content, str):
            return [{"role": self.role, "content": self.content}]
        out: list[dict[str, Any]] = []
        text = "".join(block.text or "" for block in self.content if block.type == "text")
        for block in self.content:
            if block.type == "tool_result":
                said = ("error: " if block.is_error else "") + block.plain
                out.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": said})
        calls = [
            {"id": block.id or "", "type": "function", "function": {"name": block.name, "arguments": block.input or {}}}
            for block in self.content
            if block.type == "tool_use"
        ]
        thought = "".join(block.thinking or "" for block in self.content if block.type == "thinking")
        if text or calls or not out:
            message: dict[str, Any] = {"role": self.role, "content": text}
            if calls:
                message["tool_calls"] = calls
            if thought:
                message["reasoning_content"] = thought
            out.append(message)
        return out


class ClientTool(Fields):
    """A tool; those that Anthropic's own servers run have a `type` and no schema here."""

    type: str | None = Field(None, max_length=64)
    name: Name
    description: str | None = None
    input_schema: dict[str, Any] | None = None

    @property
    def ours(self) -> bool:
        """Whether the client runs it."""
        return self.type in (None, "custom")

    def plain(self) -> dict[str, Any]:
        """Returns the tool as chat templates take it."""
        schema = self.input_schema or {"type": "object", "properties": {}}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description or "", "parameters": schema},
        }


class Choice(Fields):
    """Which tool is to be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, max_length=256)


class Thinking(Fields):
    """Whether to think first."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1, le=10**9)


class CountFields(Fields):
    """The body of `/v1/messages/count_tokens`, and the part of a message's that its prompt is made of."""

    model: str | None = Field(None, max_length=512)
    messages: list[Turn] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: str | list[Block] | None = None
    tools: list[ClientTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Choice | None = None
    thinking: Thinking | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CountFields:
        names = {tool.name for tool in self.tools or () if tool.ours}
        choice = self.tool_choice
        if choice is not None and choice.type == "tool" and choice.name not in names:
            raise ValueError("tool_choice names a tool that is not among tools")
        if choice is not None and choice.type == "any" and not names:
            raise ValueError("tool_choice is any, and there are no tools")
        return self

    def conversation(self) -> list[dict[str, Any]]:
        """Returns the conversation as chat templates take it; system texts stand together at its head."""
        system = self.system if isinstance(self.system, str) else "\n\n".join(b.text or "" for b in self.system or ())
        turns = [message for turn in self.messages for message in turn.plain()]
        texts = [text for text in [system, *(m["content"] for m in turns if m["role"] == "system")] if text]
        head = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
        return head + [message for message in turns if message["role"] != "system"]

    def functions(self) -> list[dict[str, Any]]:
        """Returns the tools that clients run, as chat templates take them."""
        if self.tool_choice is not None and self.tool_choice.type == "none":
            return []
        return [tool.plain() for tool in self.tools or () if tool.ours]

    def left_out(self) -> list[str]:
        """Returns the names of tools that Anthropic's own servers would run; nobody runs them here."""
        return [tool.name for tool in self.tools or () if not tool.ours]

    def template(self) -> dict[str, Any]:
        """Returns what the chat template is told about thinking: none unless it was asked for."""
        return {"enable_thinking": self.thinking is not None and self.thinking.type != "disabled"}


class MessageFields(CountFields):
    """The body of a message."""

    max_tokens: Count
    stream: bool = False
    stop_sequences: list[Stop] | None = Field(None, max_length=MAX_STOPS)
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None

    def drawing(self) -> DrawingFields:
        """Returns how tokens are drawn, in OpenAI's words."""
        return DrawingFields(
            model=self.model, stream=self.stream, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
        )


def parsed(arguments: str) -> dict[str, Any]:
    """Returns a call's arguments as the object that Anthropic sends."""
    value: dict[str, Any] = json.loads(arguments)
    return value
