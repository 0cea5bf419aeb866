"""An answer in sections: what is said, what is thought, what tools are called with. The text may still grow."""

from __future__ import annotations

import json
from dataclasses import dataclass

SAID, THOUGHT, TOOL = "said", "thought", "tool"


@dataclass(frozen=True, slots=True)
class Section:
    """A run of one kind; `closed` once nothing can be added to it."""

    kind: str
    text: str
    closed: bool


def _held_back(text: str, tags: tuple[str, ...]) -> int:
    """Returns how many characters at the end may be the beginning of a tag."""
    longest = 0
    for tag in tags:
        for size in range(min(len(tag) - 1, len(text)), longest, -1):
            if text.endswith(tag[:size]):
                longest = size
                break
    return longest


def split(text: str, thinking: tuple[str, str], tools: tuple[str, str], *, final: bool = False) -> list[Section]:
    """Returns the sections of an answer.

    As the text grows, sections only grow too: what may be half a tag is held back until it is known.

    Args:
        text: The answer so far.
        thinking: The tags around thinking.
        tools: The tags around a tool call.
        final: Whether nothing more will come.
    """
    sections: list[Section] = []
    kind, rest = SAID, text
    while True:
        tags = {SAID: (thinking[0], tools[0]), THOUGHT: (thinking[1],), TOOL: (tools[1],)}[kind]
        found = [(place, tag) for tag in tags if tag and (place := rest.find(tag)) >= 0]
        if not found:
            keep = 0 if final else _held_back(rest, tags)
            body = rest[: len(rest) - keep]
            if body.strip() or kind != SAID:
                sections.append(Section(kind, body.lstrip("\n"), final))
            return sections
        place, tag = min(found)
        body = rest[:place]
        if body.strip():
            sections.append(Section(kind, body.lstrip("\n"), True))
        rest = rest[place + len(tag) :]
        kind = SAID if kind != SAID else (THOUGHT if tag == thinking[0] else TOOL)


def tool_title(text: str) -> str:
    """Returns the name of the tool in a call, as far as it can be told."""
    try:
        call = json.loads(text)
    except ValueError:
        return "tool call"
    name = call.get("name") if isinstance(call, dict) else None
    return f"tool call: {name}" if name else "tool call"


def tool_body(text: str) -> str:
    """Returns a call as a Markdown block, indented where it is JSON."""
    body = text.strip()
    try:
        return f"```json\n{json.dumps(json.loads(body), indent=2, ensure_ascii=False)}\n```"
    except ValueError:
        return f"```\n{body}\n```"


def spoken(text: str, thinking: tuple[str, str]) -> str:
    """Returns the answer without its thinking, for the clipboard."""
    return "".join(s.text for s in split(text, thinking, ("", ""), final=True) if s.kind == SAID).strip()


def reply_as_shown(text: str, thinking: tuple[str, str], tools: tuple[str, str]) -> dict[str, str]:
    """Returns an answer that was broken off as the next prompt takes it, told by the tags it is shown with."""
    kinds = {SAID: "", THOUGHT: "", TOOL: ""}
    for section in split(text, thinking, tools, final=True):
        kinds[section.kind] += section.text
    return {"role": "assistant", "content": kinds[SAID], "reasoning_content": kinds[THOUGHT]}
