"""The body of `/v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from moe_mlx.serving.drawing_fields import Count, DrawingFields, Fields, ResponseFormat

#: Messages of one conversation, tools of one request.
MAX_MESSAGES, MAX_TOOLS = 4096, 256
NO_IMAGES = (
    "this server takes text and, of users, pictures as data URLs (data:image/png;base64,...): no audio or files, and "
    "nothing is fetched for a client"
)
Name = Annotated[str, Field(min_length=1, max_length=256)]


#: "low" has a picture made smaller before the model's processor sees it; the others leave it to the processor.
DETAILS = ("low", "high", "auto")


class ImageUrl(Fields):
    """Where OpenAI has a picture's address; here the picture itself."""

    url: str
    detail: str | None = Field(None, max_length=32)


class Part(Fields):
    """A part of a message's content: text, or a picture as a data URL."""

    type: str = Field(max_length=64)
    text: str | None = None
    image_url: str | ImageUrl | None = None
    detail: str | None = Field(None, max_length=32)

    @model_validator(mode="after")
    def _text_or_picture(self) -> Part:
        if self.type in ("image_url", "input_image"):
            if not self.url.startswith("data:image/"):
                raise ValueError(NO_IMAGES)
            if self.looked_at not in DETAILS:
                raise ValueError(f"detail of a picture: {', '.join(DETAILS[:-1])} or {DETAILS[-1]}")
            return self
        if self.type not in ("text", "input_text", "output_text", "refusal"):
            raise ValueError(NO_IMAGES)
        if self.text is None and self.type != "refusal":
            raise ValueError("a part of text without its text")
        if self.image_url is not None:
            raise ValueError("a part of text with a picture: give the picture a part of its own")
        return self

    @property
    def url(self) -> str:
        """A picture's data URL; "" where there is none."""
        return self.image_url.url if isinstance(self.image_url, ImageUrl) else self.image_url or ""

    @property
    def looked_at(self) -> str:
        """The detail that is wanted of a picture: said beside its address in chats, of the part in responses."""
        of_url = self.image_url.detail if isinstance(self.image_url, ImageUrl) else None
        return next((told for told in (of_url, self.detail) if told is not None), "auto")

    @property
    def plain(self) -> dict[str, str]:
        """The part as `moe_mlx.serving.prompts` takes it."""
        if self.type in ("image_url", "input_image"):
            return {"type": "image_url", "image_url": self.url, "detail": self.looked_at}
        return {"type": "text", "text": self.text or ""}


def content_of(content: str | list[Part] | None, *, pictures: bool) -> str | list[dict[str, str]]:
    """Returns a content as text, and as parts where there are pictures among them.

    Raises:
        ValueError: there are, and they are not a user's.
    """
    if not isinstance(content, list):
        return content or ""
    if not any(part.url for part in content):
        return "".join(part.text or "" for part in content)
    if not pictures:
        raise ValueError("only messages of users may have pictures")
    return [part.plain for part in content]


class CalledFunction(Fields):
    """What a tool call calls; arguments are JSON in a text, as OpenAI has it, or the object itself."""

    name: Name
    arguments: str | dict[str, Any] = ""

    def parsed(self) -> dict[str, Any]:
        """Returns the arguments as an object.

        Raises:
            ValueError: they are none.
        """
        if isinstance(self.arguments, dict):
            return self.arguments
        try:
            value = json.loads(self.arguments or "{}")
        except (ValueError, RecursionError):
            raise ValueError("arguments of a tool call are a JSON object in a text") from None
        if not isinstance(value, dict):
            raise ValueError("arguments of a tool call are a JSON object in a text")
        return value


class ToolCall(Fields):
    """A tool call in an earlier answer."""

    id: str | None = Field(None, max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Fields):
    """One message."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: str | None = Field(None, max_length=256)
    reasoning: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _calls_parse(self) -> Message:
        for call in self.tool_calls or ():
            call.function.parsed()
        content_of(self.content, pictures=self.role == "user")
        return self

    def plain(self) -> dict[str, Any]:
        """Returns the message as chat templates take it."""
        role = "system" if self.role == "developer" else self.role
        plain: dict[str, Any] = {"role": role, "content": content_of(self.content, pictures=True)}
        if self.tool_calls:
            plain["tool_calls"] = [
                {
                    "id": call.id or "",
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.parsed()},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            plain["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            plain["name"] = self.name
        if thought := self.reasoning_content or self.reasoning:
            plain["reasoning_content"] = thought
        return plain


class Function(Fields):
    """A function that may be called."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Fields):
    """A tool; functions only."""

    type: Literal["function"]
    function: Function

    def plain(self) -> dict[str, Any]:
        """Returns the tool as chat templates take it."""
        function = self.function
        return {
            "type": "function",
            "function": {
                "name": function.name,
                "description": function.description or "",
                "parameters": function.parameters or {"type": "object", "properties": {}},
            },
        }


class NamedFunction(Fields):
    """The name in a tool choice."""

    name: Name


class NamedTool(Fields):
    """A tool choice that names a function."""

    type: Literal["function"]
    function: NamedFunction


class ChatFields(DrawingFields):
    """The body of a chat completion."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Count | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=-1, le=20)
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: str | None = Field(None, max_length=32)
    chat_template_kwargs: dict[str, bool | int | float | str | None] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ChatFields:
        names = {tool.function.name for tool in self.tools or ()}
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.function.name not in names:
            raise ValueError("tool_choice names a function that is not among tools")
        if self.tool_choice == "required" and not names:
            raise ValueError("tool_choice is required, and there are no tools")
        return self
