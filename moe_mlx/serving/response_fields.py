"""The body of OpenAI's `/v1/responses`, and what it means in the words that chat templates use."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from moe_mlx.serving.chat_fields import MAX_MESSAGES, MAX_TOOLS, CalledFunction, Name, NamedFunction, Part, content_of
from moe_mlx.serving.drawing_fields import Count, DrawingFields, Fields


class Item(Fields):
    """An item of the input: a message, a call, its result, or reasoning of an earlier answer."""

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = Field(None, max_length=256)
    name: str | None = Field(None, max_length=256)
    arguments: str | None = None
    output: str | list[Part] | None = None

    @model_validator(mode="before")
    @classmethod
    def _reasoning_is_opaque(cls, item: Any) -> Any:
        if isinstance(item, dict) and item.get("type") == "reasoning":
            return {"type": "reasoning"}
        return item

    @model_validator(mode="after")
    def _whole(self) -> Item:
        if self.type == "message" and (self.role is None or self.content is None):
            raise ValueError("a message without its role or content")
        content_of(self.content, pictures=self.role == "user" and self.type == "message")
        content_of(self.output, pictures=False)
        if self.type == "function_call":
            if self.name is None or self.call_id is None:
                raise ValueError("a function_call without its name or call_id")
            CalledFunction(name=self.name, arguments=self.arguments or "").parsed()
        if self.type == "function_call_output" and (self.call_id is None or self.output is None):
            raise ValueError("a function_call_output without its call_id or output")
        return self

    def plain(self) -> dict[str, Any] | None:
        """Returns the message that chat templates make of it; None for reasoning, which is not shown again."""
        if self.type == "function_call":
            arguments = CalledFunction(name=self.name or "", arguments=self.arguments or "").parsed()
            call = {"id": self.call_id, "type": "function", "function": {"name": self.name, "arguments": arguments}}
            return {"role": "assistant", "content": "", "tool_calls": [call]}
        if self.type == "function_call_output":
            return {"role": "tool", "tool_call_id": self.call_id, "content": _text(self.output)}
        if self.type == "reasoning":
            return None
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": content_of(self.content, pictures=True)}


def _text(content: str | list[Part] | None) -> str:
    return "".join(part.text or "" for part in content) if isinstance(content, list) else content or ""


class FlatTool(Fields):
    """A tool; functions are the ones that clients run."""

    type: str = Field(max_length=64)
    name: Name | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> FlatTool:
        if self.type == "function" and self.name is None:
            raise ValueError("a function without a name")
        return self


class FlatChoice(NamedFunction):
    """A tool choice that names a function."""

    type: Literal["function"]


class Format(Fields):
    """OpenAI's `text.format`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextOptions(Fields):
    """OpenAI's `text`."""

    format: Format | None = None


class ReasoningOptions(Fields):
    """OpenAI's `reasoning`."""

    effort: str | None = Field(None, max_length=32)


class ResponseFields(DrawingFields):
    """The body of a response."""

    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    tools: list[FlatTool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None
    metadata: dict[str, str] | None = None

    @model_validator(mode="after")
    def _possible(self) -> ResponseFields:
        if self.previous_response_id is not None or self.conversation is not None:
            raise ValueError("this server keeps no responses: send the whole conversation as input")
        if self.background or self.prompt is not None:
            raise ValueError("background responses and stored prompts are not done here")
        if isinstance(self.input, list) and not 1 <= len(self.input) <= MAX_MESSAGES:
            raise ValueError(f"input has {len(self.input)} items: give 1 to {MAX_MESSAGES}")
        names = {tool.name for tool in self.tools or () if tool.type == "function"}
        if isinstance(self.tool_choice, FlatChoice) and self.tool_choice.name not in names:
            raise ValueError("tool_choice names a function that is not among tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, and there are no functions")
        return self

    def messages(self) -> list[dict[str, Any]]:
        """Returns the conversation as chat templates take it; calls that follow each other stand in one message."""
        items = [Item(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        out: list[dict[str, Any]] = []
        if self.instructions:
            out.append({"role": "system", "content": self.instructions})
        for message in filter(None, (item.plain() for item in items)):
            before = out[-1] if out else None
            if before is not None and message["role"] == "system" == before["role"]:
                before["content"] += "\n\n" + message["content"]
            elif before is not None and "tool_calls" in message and before["role"] == "assistant":
                before.setdefault("tool_calls", []).extend(message["tool_calls"])
            else:
                out.append(message)
        return out

    def functions(self) -> list[dict[str, Any]]:
        """Returns the tools that clients run, as chat templates take them."""
        if self.tool_choice == "none":
            return []
        return [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.parameters or {"type": "object", "properties": {}},
                },
            }
            for tool in self.tools or ()
            if tool.type == "function"
        ]

    def left_out(self) -> list[str]:
        """Returns the kinds of tools that OpenAI's own servers would run; nobody runs them here."""
        return [tool.type for tool in self.tools or () if tool.type != "function"]

    def schema_wanted(self) -> dict[str, Any] | None:
        """Returns the JSON schema that the answer has to keep to; None for free text."""
        wanted = None if self.text is None else self.text.format
        if wanted is None or wanted.type == "text":
            return None
        return wanted.schema_ or {"type": "object"}
