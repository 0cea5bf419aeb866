"""Tools in a prompt and in an answer: the model's own format, or a written one for templates that know no tools."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

#: What stands around a call in the written format; mlx-lm's, and that of many models.
MARKERS: tuple[str, str] = (json_tools.tool_call_start, json_tools.tool_call_end)

_EXPLAINED = """You can call these functions:
{tools}
To call one, write a JSON object with its name and arguments:
{start}{{"name": "NAME", "arguments": {{...}}}}{end}"""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a model made; `arguments` is a JSON object as text."""

    id: str
    name: str
    arguments: str


def written(tokenizer: TokenizerWrapper) -> bool:
    """Returns whether tools have to be written into the conversation, since the model's template knows none."""
    return not tokenizer.has_tool_calling


def write_tools(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a conversation in which tools, calls and results are text, for templates that know no tools.

    Args:
        messages: As chat templates take them.
        tools: What may be called; may be empty where there are only earlier calls.
    """
    out: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            out.append({"role": "user", "content": f"<tool_response>{message['content']}</tool_response>"})
        elif calls := message.get("tool_calls"):
            text = "".join(
                MARKERS[0]
                + json.dumps(
                    {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}, ensure_ascii=False
                )
                + MARKERS[1]
                for call in calls
            )
            kept = {name: value for name, value in message.items() if name != "tool_calls"}
            out.append({**kept, "content": (message["content"] or "") + text})
        else:
            out.append(dict(message))
    if tools:
        listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        said = _EXPLAINED.format(tools=listed, start=MARKERS[0], end=MARKERS[1])
        if out and out[0]["role"] == "system":
            out[0] = {"role": "system", "content": f"{out[0]['content']}\n\n{said}"}
        else:
            out.insert(0, {"role": "system", "content": said})
    return out


def forceable(tokenizer: TokenizerWrapper) -> bool:
    """Returns whether a call can be forced: its format is JSON between two markers."""
    parser = getattr(tokenizer.tool_parser, "__module__", "")
    return written(tokenizer) or parser == json_tools.__name__


def call_schema(tools: Sequence[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """Returns the JSON schema of one call of a tool, of that name where one is given."""
    options = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"]["parameters"] or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if name is None or tool["function"]["name"] == name
    ]
    return options[0] if len(options) == 1 else {"anyOf": options}


def parse_calls(text: str, tokenizer: TokenizerWrapper, tools: Sequence[dict[str, Any]]) -> list[Call] | None:
    """Returns the calls in what stood between two markers; None where it is no call, as when it was cut short."""
    parser = json_tools.parse_tool_call if written(tokenizer) else tokenizer.tool_parser
    if parser is None:
        return None
    try:
        found = parser(text, list(tools))
        calls = found if isinstance(found, list) else [found]
        return [_call(one) for one in calls]
    except Exception:  # a parser of mlx-lm's over text of a model's: whatever it raises, this is no call
        return None


def _call(found: Any) -> Call:
    name, arguments = found["name"], found.get("arguments", found.get("parameters", {}))
    if not isinstance(name, str) or not name:
        raise ValueError("a call without a name")
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments are no object")
    given = found.get("id")
    identity = given if isinstance(given, str) and given else f"call_{uuid.uuid4().hex[:24]}"
    return Call(identity, name, json.dumps(arguments, ensure_ascii=False))
