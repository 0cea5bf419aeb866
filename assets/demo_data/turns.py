"""What a skill produces (a turn), how prompts are roughened, and which ones are held out.

This module knows nothing about any particular skill.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .texts import phrases, words

HELDOUT_PERCENT = 4
_QUESTION = re.compile(r"^(what|how|who|which|where|when|why|is|are|do|does|can|whats|hows)\b", re.IGNORECASE)
_VERBS = frozenset(
    words(
        "tell name give calculate compute work solve do add subtract take multiply translate say put sort order "
        "reverse write turn list count find spell make create convert read get extract explain draw recommend sing "
        "summarise define plan compare play search divide introduce"
    )
)
_IMPERATIVE_PREFIXES = phrases(
    "Please |Can you |Could you |Could you please |Can you please |I want you to |Now |Hey, |Would you "
)
_QUESTION_PREFIXES = phrases("Hey, |Please tell me, |Tell me, |Quick question: |Hi! |Do you know, |So, ")


@dataclass(frozen=True, slots=True)
class Turn:
    """One request and its answer.

    Attributes:
        skill: Name of the skill, as reported in the tables.
        user: What the person types.
        answer: What the model should say.
        key: The content that decides the split; wording and typing noise are not in it.
        memo: Whatever a follow-up question needs to know about this turn.
        exact: True if `answer` is the only right answer.
    """

    skill: str
    user: str
    answer: str
    key: str
    memo: tuple[str, ...] = ()
    exact: bool = True


Maker = Callable[[random.Random], Turn]


def is_heldout(turn: Turn) -> bool:
    """Tells whether the turn's content belongs to the held-out side of the split."""
    digest = hashlib.blake2b(f"{turn.skill}|{turn.key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < HELDOUT_PERCENT


def normalise(prompt: str) -> str:
    """Reduces a prompt to lower-case words and signs, so that typing noise does not tell two apart."""
    return " ".join(re.findall(r"[^\W_]+|[-+*/{}\[\]:]", prompt.lower()))


def article(noun: str) -> str:
    """Puts the right indefinite article before a noun."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def join_and(items: Sequence[str]) -> str:
    """Joins words the way a sentence does: "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def roughen(rng: random.Random, text: str, *, fold: bool = True) -> str:
    """Types a prompt the way people do: politely, in lower case, or without punctuation.

    Args:
        rng: Source of randomness.
        text: The clean prompt, starting with a capital.
        fold: Whether the whole text may become lower case; if not, only its first letter may.
    """
    roll = rng.random()
    question = bool(_QUESTION.match(text))
    if roll < 0.16 and (question or text.split(maxsplit=1)[0].lower() in _VERBS):
        prefix = rng.choice(_QUESTION_PREFIXES if question else _IMPERATIVE_PREFIXES)
        keep = text[:2] == "I " or text[1:2].isupper()
        text = prefix + (text if keep else text[0].lower() + text[1:])
        if not question and prefix.lower().split()[0] in ("can", "could", "would") and text.endswith("."):
            text = text[:-1] + "?"
    elif roll < 0.22:
        text = (
            text.rstrip(".") + rng.choice((" please", ", please", " please.", ", please.", " pls", ", thanks"))
            if text[-1] != "?"
            else text
        )
    if rng.random() < 0.35:
        text = text.rstrip(".?!")
    if rng.random() < 0.35:
        text = text.lower() if fold else text if text.startswith("JSON") else text[0].lower() + text[1:]
        if rng.random() < 0.5:
            text = text.replace("what's", "whats").replace("What's", "whats")
    return text


def ask(rng: random.Random, templates: Sequence[str], *, fold: bool = True, **fields: str) -> tuple[str, int]:
    """Fills a random template and roughens it.

    Returns:
        The prompt and the number of the template, which fact skills put in their key.
    """
    number = rng.randrange(len(templates))
    return roughen(rng, templates[number].format(**fields), fold=fold), number
