"""The body of `/v1/completions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from moe_mlx.serving.drawing_fields import DrawingFields

#: Prompts of one request.
MAX_PROMPTS = 16
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]


class CompletionFields(DrawingFields):
    """The body of a completion: one prompt or several, as text or as token ids."""

    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: bool | Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool = False

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)
