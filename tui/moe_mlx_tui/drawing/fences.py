"""The code blocks of a text in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from markdown_it import MarkdownIt


@dataclass(frozen=True, slots=True)
class Fence:
    """A code block: what its author calls its language, and the code."""

    language: str
    code: str


def fences(text: str) -> list[Fence]:
    """Returns the code blocks in order, those inside lists and quotes too."""
    return [
        Fence(token.info.split()[0] if token.info.strip() else "", token.content.rstrip("\n"))
        for token in MarkdownIt().parse(text)
        if token.type in ("fence", "code_block")
    ]
