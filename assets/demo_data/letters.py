"""Spelling words, turning them round and counting their letters.

Every answer first spells the word out, which is what makes these tasks learnable for a model that sees pieces of words.
"""

from __future__ import annotations

import random

from .texts import phrases
from .turns import Turn, ask
from .words import any_word

_SPELL = phrases(
    "Spell {w}.|Spell the word {w}.|How do you spell {w}?|How is {w} spelled?|Spell out {w}.|Spell {w} for me.|Can "
    'you spell {w}?|What are the letters of {w}?|Write the letters of the word {w}.|Spell "{w}".|Spell {w} letter '
    "by letter.|How do I spell the word {w}?"
)
_REVERSE = phrases(
    "Reverse the word {w}.|Spell {w} backwards.|Write {w} backwards.|What is {w} backwards?|Reverse the letters of "
    '{w}.|Say {w} backwards.|Reverse {w}.|Turn the word {w} around.|What is {w} spelled backwards?|Reverse "{w}".|'
    "Reverse the letters in {w}."
)
_LENGTH = phrases(
    "How many letters are in {w}?|How many letters does {w} have?|Count the letters in {w}.|How many letters are "
    "in the word {w}?|How long is the word {w}?|How many letters has the word {w}?|Count the letters of the word "
    '{w}.|How many letters are in "{w}"?|How many letters in {w}?|Number of letters in {w}?|Length of {w}?'
)
_FIND = phrases(
    "How many times does {c} appear in {w}?|How many {c}s are in {w}?|Count the letter {c} in {w}.|How many times "
    "is the letter {c} in {w}?|How many {c} are in the word {w}?|How often does {c} appear in {w}?|How many "
    "letters {c} are there in {w}?|How many {c}'s are in {w}?|How many {c}'s in {w}?|How many {c}s in {w}?"
)
_END = {
    "first": phrases(
        "What is the first letter of {w}?|Which letter does {w} start with?|First letter of {w}?|{w} starts with "
        "which letter?"
    ),
    "last": phrases(
        "What is the last letter of {w}?|Which letter does {w} end with?|Last letter of {w}?|{w} ends with which "
        "letter?"
    ),
}


def spelled(word: str) -> str:
    """The letters of a word with hyphens between them."""
    return "-".join(word)


def spell_answer(word: str) -> str:
    """The one way a spelling is told."""
    return spelled(word)


def reverse_answer(word: str) -> str:
    """The one way a reversed word is told."""
    return f"{spelled(word)} backwards is {spelled(word[::-1])}"


def length_answer(word: str) -> str:
    """The one way a number of letters is told."""
    return f"{spelled(word)} has {len(word)} letters."


def spell(rng: random.Random) -> Turn:
    """Letter by letter."""
    word = any_word(rng)
    user, _ = ask(rng, _SPELL, fold=word.islower(), w=word)
    return Turn("spelling", user, spell_answer(word), f"spell|{word}", (word,))


def ends(rng: random.Random) -> Turn:
    """The first or last letter of a word."""
    word, which = any_word(rng), rng.choice(("first", "last"))
    user, _ = ask(rng, _END[which], fold=word.islower(), w=word)
    return Turn(
        "spelling",
        user,
        f"{spelled(word)} {'starts' if which == 'first' else 'ends'} with {word[0 if which == 'first' else -1]}.",
        f"{which}|{word}",
        (word,),
    )


def reverse_word(rng: random.Random) -> Turn:
    """A word backwards, through its letters."""
    word = any_word(rng)
    while len(word) > 9:
        word = any_word(rng)
    user, _ = ask(rng, _REVERSE, fold=word.islower(), w=word)
    return Turn("reversing", user, reverse_answer(word), f"word|{word}", (word,))


def length(rng: random.Random) -> Turn:
    """The number of letters."""
    word = any_word(rng)
    user, _ = ask(rng, _LENGTH, fold=word.islower(), w=word)
    return Turn("counting", user, length_answer(word), f"length|{word}", (word,))


def find(rng: random.Random) -> Turn:
    """How often a letter occurs."""
    word = any_word(rng)
    word = word.lower()
    letter = rng.choice(word) if rng.random() < 0.9 else rng.choice("abcdefghijklmnoprstuvw")
    user, _ = ask(rng, _FIND, fold=word.islower(), w=word, c=letter)
    found = [place for place in word if place == letter]
    trail = f" has {', '.join(found)}:" if found else " has"
    return Turn("counting", user, f"{spelled(word)}{trail} {len(found)}", f"find|{letter}|{word}", (word,))


def follow(rng: random.Random, previous: Turn) -> Turn | None:
    """Asks something else about the word of the last turn."""
    word = previous.memo[0]
    task = rng.choice(("backwards", "letters", "spell"))
    if task == "backwards" and len(word) <= 9:
        user, _ = ask(rng, ("And backwards?", "Now backwards.", "Now reverse it.", "And reversed?", "Reverse it."))
        return Turn("reversing", user, reverse_answer(word), f"word|{word}", (word,))
    if task == "letters":
        user, _ = ask(
            rng,
            phrases(
                "How many letters is that?|How many letters does it have?|And how many letters?|Count the letters."
            ),
        )
        return Turn("counting", user, length_answer(word), f"length|{word}", (word,))
    if previous.skill != "spelling":
        user, _ = ask(rng, ("Now spell it.", "And how is it spelled?", "Spell it.", "How do you spell that?"))
        return Turn("spelling", user, spell_answer(word), f"spell|{word}", (word,))
    return None
