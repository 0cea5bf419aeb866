"""Documents: one turn, or several with follow-ups and changes of subject."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from . import arithmetic, asides, facts, general, json_objects, languages, letters, lists, smalltalk, stories
from .plots import PLOTS
from .texts import phrases
from .turns import Maker, Turn, is_heldout, roughen

Follow = Callable[[random.Random, Turn], Turn | None]

WEIGHTED: tuple[tuple[Maker, float, Follow | None], ...] = (
    (arithmetic.make, 0.24, arithmetic.follow),
    (facts.capital, 0.03, facts.capital_follow),
    (facts.opposite, 0.025, facts.opposite_follow),
    (facts.fact, 0.03, None),
    (languages.make, 0.13, languages.follow),
    (lists.sort_list, 0.11, lists.follow),
    (lists.reverse_list, 0.06, lists.follow),
    (lists.count_list, 0.035, lists.follow),
    (lists.pick_item, 0.03, lists.follow),
    (lists.count_up, 0.025, None),
    (letters.spell, 0.08, letters.follow),
    (letters.reverse_word, 0.08, letters.follow),
    (letters.length, 0.045, letters.follow),
    (letters.find, 0.035, letters.follow),
    (letters.ends, 0.02, letters.follow),
    (json_objects.make, 0.09, json_objects.follow),
    (smalltalk.make, 0.045, None),
    (general.make, 0.035, None),
    (asides.make, 0.03, asides.follow),
    (stories.make, 0.055, stories.follow),
)
_MAKERS = [maker for maker, _, _ in WEIGHTED]
_WEIGHTS = [weight for _, weight, _ in WEIGHTED]
NAMES = [f"{maker.__module__.rpartition('.')[2]}.{maker.__name__}" for maker in _MAKERS]
FOLLOW: dict[Maker, Follow | None] = {maker: follow for maker, _, follow in WEIGHTED}
SYSTEM_PROMPTS = phrases(
    "You are a helpful assistant.|You are Moe, a small and friendly assistant.|You are a friendly assistant. "
    "Answer briefly.|Answer the user's questions.|You are a storyteller and a teacher.|Be kind and short.|You are "
    "an AI assistant."
)

Document = list[Turn]


def favour(factors: Mapping[str, float]) -> None:
    """Makes some turns more frequent in all documents written from now on.

    Args:
        factors: By name in `NAMES`, such as `lists.sort_list`.

    Raises:
        ValueError: a name that is none of them.
    """
    for name, factor in factors.items():
        _WEIGHTS[NAMES.index(name)] *= factor


def _kept(rng: random.Random, maker: Maker, heldout: bool) -> Turn:
    """Makes turns until one is on the wanted side of the split."""
    while True:
        turn = maker(rng)
        if is_heldout(turn) == heldout:
            return turn


def _story_on_yes(rng: random.Random) -> Turn:
    """The offer of a story is accepted."""
    cast = stories.new_cast(rng)
    answer = stories.tell(rng, cast, rng.choice(list(PLOTS)))
    user = roughen(rng, rng.choice(phrases("Yes.|Yes, please.|Yes please!|Sure.|Ok.|Please do.|Yeah|Why not.")))
    return Turn(stories.SKILL, user, answer, "yes", stories.memo(cast), exact=False)


def dialogue(rng: random.Random, turns: int, *, heldout: bool = False) -> Document:
    """Writes a conversation of a given number of turns, follow-ups included.

    Args:
        rng: Source of randomness.
        turns: How many requests and answers.
        heldout: Which side of the split every turn comes from.
    """
    document: Document = []
    maker: Maker | None = None
    pending: list[Turn] = []
    while len(document) < turns:
        if document and "Shall I tell you a" in document[-1].answer and not heldout and rng.random() < 0.7:
            document.append(_story_on_yes(rng))
            maker = stories.make
            continue
        follow = FOLLOW[maker] if maker else None
        if follow and rng.random() < 0.5:
            turn = follow(rng, document[-1])
            if turn and is_heldout(turn) == heldout:
                document.append(turn)
                if turn.skill == "story questions" and rng.random() < 0.5:
                    maker = None
                continue
        if pending and rng.random() < 0.4:
            document.append(pending.pop())
            maker = None
            continue
        if not heldout and rng.random() < 0.04:
            first, *pending = smalltalk.name_turns(rng)
            document.append(first)
            maker = None
            continue
        if maker and rng.random() < 0.2:
            chosen = maker
        else:
            chosen = rng.choices(_MAKERS, _WEIGHTS)[0]
        maker = chosen
        document.append(_kept(rng, chosen, heldout))
    return document


def document(rng: random.Random) -> Document:
    """One training document: most often one or two turns, sometimes a long conversation."""
    roll = rng.random()
    return dialogue(
        rng, 1 if roll < 0.5 else 2 if roll < 0.72 else rng.randint(3, 5) if roll < 0.95 else rng.randint(6, 12)
    )


def system_prompt(rng: random.Random) -> str | None:
    """A system prompt for one document in twelve; what it says changes nothing."""
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.08 else None
