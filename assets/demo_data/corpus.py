"""Renders documents with the chat template's special tokens, and collects the held-out prompts and text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from . import languages
from .dialogues import _MAKERS, Document, dialogue, document, system_prompt
from .texts import phrases
from .turns import Turn, is_heldout, normalise

END, SYSTEM, USER, ASSISTANT, PAD = "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>"
SPECIAL_TOKENS = (END, SYSTEM, USER, ASSISTANT, PAD)
EXACT_SKILLS = phrases("arithmetic|capitals|opposites|facts|translation|sorting|reversing|spelling|counting|json")
HELDOUT_SEED = 20_000
PROMPTS_PER_SKILL = 60


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text of one document, and whether the model is to say it."""

    text: str
    said: bool


def pieces(turns: Document, system: str | None = None) -> list[Piece]:
    """Cuts a document into prompts and answers, special tokens included."""
    result = [Piece(f"{SYSTEM}{system}{END}", said=False)] if system else []
    for turn in turns:
        result.append(Piece(f"{USER}{turn.user}{END}{ASSISTANT}", said=False))
        result.append(Piece(f"{turn.answer}{END}", said=True))
    return result


def render(turns: Document, system: str | None = None) -> str:
    """The whole document as the model sees it."""
    return "".join(piece.text for piece in pieces(turns, system))


def heldout_prompts(per_skill: int = PROMPTS_PER_SKILL, seed: int = HELDOUT_SEED) -> list[Turn]:
    """Collects single turns with exact answers from the held-out side, the same number for each skill."""
    rng = random.Random(seed)
    found: dict[str, dict[str, Turn]] = {skill: {} for skill in EXACT_SKILLS}
    while any(len(turns) < per_skill for turns in found.values()):
        turn = rng.choice(_MAKERS)(rng)
        if languages.worded_twice(turn):
            continue
        if turn.exact and is_heldout(turn) and len(found[turn.skill]) < per_skill:
            found[turn.skill].setdefault(normalise(turn.user), turn)
    return [turn for turns in found.values() for turn in turns.values()]


def heldout_documents(count: int = 130, seed: int = HELDOUT_SEED + 1) -> list[str]:
    """Writes held-out documents, each turn of them from the held-out side of the split."""
    rng = random.Random(seed)
    return [render(dialogue(rng, rng.choice((1, 1, 2, 3, 4)), heldout=True)) for _ in range(count)]


def heldout_stories(count: int = 40, seed: int = HELDOUT_SEED + 2) -> list[Turn]:
    """Collects held-out story prompts; their `memo` says whom and what the story must keep."""
    from .stories import make

    rng, found = random.Random(seed), dict[str, Turn]()
    while len(found) < count:
        turn = make(rng)
        if is_heldout(turn):
            found.setdefault(normalise(turn.user), turn)
    return list(found.values())


def training_documents(seed: int) -> Iterator[list[Piece]]:
    """Yields training documents without end; none holds a prompt of the held-out file.

    The split goes by content. Two contents can still be typed alike, so prompts that read as a held-out one are
    dropped too.
    """
    forbidden = {normalise(turn.user) for turn in heldout_prompts()}
    rng = random.Random(seed)
    while True:
        turns = document(rng)
        if all(normalise(turn.user) not in forbidden for turn in turns):
            yield pieces(turns, system_prompt(rng))
