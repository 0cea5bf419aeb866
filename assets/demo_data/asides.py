"""Requests that lack something, that name something unknown, or that ask for a few examples."""

from __future__ import annotations

import random

from .facts import CAPITALS, OPPOSITES
from .languages import LANGUAGES, LEXICON, answer
from .texts import phrases
from .turns import Turn, join_and, roughen
from .words import ANIMALS, COLOURS, FOODS, FRUITS, NAMES, PLACES, THINGS, VOCABULARY, invented_word

SKILL = "asides"
_MISSING: tuple[tuple[str, str], ...] = (
    (
        (
            "Sort a list.|Sort something.|Can you sort?|Sort words.|Sort numbers.|Sort|Sort a list for me.|"
            "Can you sort a list?"
        ),
        "Yes! Give me the words or numbers to sort.",
    ),
    (
        "Reverse something.|Reverse a word.|Reverse a list.|Reverse|Can you reverse a word?|Can you reverse a list?",
        "Yes! Give me a word or a list to turn around.",
    ),
    ("Spell something.|Spell a word.|Can you spell?|Spell|Can you spell words?", "Yes! Which word shall I spell?"),
    (
        "Count something.|Can you count letters?|Count|Count the letters.|Count the words.",
        "Yes! Give me a word or a list to count.",
    ),
    (
        "Translate something.|Translate a word.|Translate|Can you translate something?|"
        "Can you translate a word for me?",
        "Yes! Give me a word, and French, Spanish or German.",
    ),
    (
        "Make JSON.|Write JSON.|JSON|Make some JSON.|Give me JSON.|Write some JSON.|Can you make a JSON object?",
        "Yes! Give me some fields, for example name Pip and age 7.",
    ),
    (
        (
            "Calculate something.|Do a sum.|Maths|Math|Can you do a sum?|Solve a problem.|Let us do maths.|"
            "Let's do some maths."
        ),
        "Yes! Try me: what is 47 + 38?",
    ),
    (
        "Name a capital.|Capitals|Tell me a capital.|Do you know capitals?|Tell me about capitals.",
        "Ask me for the capital of a country, for example France.",
    ),
    (
        "Opposites|Do you know opposites?|Tell me an opposite.|Name an opposite.",
        "Ask me for the opposite of a word, for example hot.",
    ),
    (
        "Ask me something.|Ask me a question.|Quiz me.|Let's play.|Let us play a game.|Play a game.|I want to play.",
        "I am better at answers than at questions. Ask me for a sum or a story!",
    ),
)
_FACTS = phrases(
    "Bees make honey from nectar.|The blue whale is the largest animal.|A spider has 8 legs.|Mount Everest is the "
    "highest mountain.|The sun is a star.|A baby kangaroo is called a joey.|Ice is frozen water.|The capital of "
    "Iceland is Reykjavik.|Giraffes are the tallest animals.|Jupiter is the largest planet."
)
_FACT_ASK = phrases(
    "Tell me something.|Tell me a fact.|Tell me something interesting.|Do you know a fun fact?|Say something.|Fun "
    "fact|Tell me a fun fact.|Tell me anything."
)
_KINDS = {
    "animals": ANIMALS,
    "colours": COLOURS,
    "fruits": FRUITS,
    "foods": FOODS,
    "countries": [name for name in CAPITALS if name[0] != "t"],
    "capitals": list(CAPITALS.values()),
    "names": NAMES,
    "colors": COLOURS,
    "places": PLACES,
    "things": THINGS,
}
_SOME = phrases(
    "Name {n} {k}.|List {n} {k}.|Give me {n} {k}.|Tell me {n} {k}.|Can you name {n} {k}?|What are {n} {k}?|I need "
    "{n} {k}.|Write a list of {n} {k}."
)
_COUNTS = ("one", "two", "three", "four", "five", "six")
_UNKNOWN_OPPOSITE = phrases(
    "What is the opposite of {w}?|Opposite of {w}?|Tell me the opposite of {w}.|What's the opposite of {w}?"
)
_UNKNOWN_WORD = phrases(
    "How do you say {w} in {l}?|What is {w} in {l}?|Translate {w} into {l}.|Translate {w} to {l}.|{w} in {l}?|What "
    "is the {l} word for {w}?|What's {w} in {l}?"
)
_NO_LANGUAGE = phrases(
    "Translate {w}.|Translate the word {w}.|Can you translate {w}?|Please translate {w}.|I need a translation of {w}."
)
_COUNT_FAR = ("Count to {n}.", "Count from 1 to {n}.", "Count up to {n}.")


def missing(rng: random.Random) -> Turn:
    """A request that forgot to say what to work on."""
    asks, reply = rng.choice(_MISSING)
    clean = rng.choice(asks.split("|"))
    return Turn(SKILL, roughen(rng, clean), reply, clean, exact=False)


def some_fact(rng: random.Random) -> Turn:
    """Anything at all."""
    return Turn(SKILL, roughen(rng, rng.choice(_FACT_ASK)), rng.choice(_FACTS), "fact", exact=False)


def examples(rng: random.Random) -> Turn:
    """A few animals, fruits, colours and so on."""
    kind, number = rng.choice(list(_KINDS)), rng.randint(2, 6)
    chosen = rng.sample(sorted(set(_KINDS[kind])), k=number)
    count = _COUNTS[number - 1] if rng.random() < 0.7 else str(number)
    user = rng.choice(_SOME).format(n=count, k=kind)
    return Turn(SKILL, roughen(rng, user), f"{join_and(chosen)}.", f"some|{user}|{chosen[0]}", exact=False)


def unknown_word(rng: random.Random) -> Turn:
    """A word that the model was taught no opposite or translation of."""
    if rng.random() < 0.4:
        word = (
            invented_word(rng)
            if rng.random() < 0.5
            else rng.choice([word for word in VOCABULARY if word not in OPPOSITES])
        )
        user = rng.choice(_UNKNOWN_OPPOSITE).format(w=word)
        return Turn(SKILL, roughen(rng, user), f"I do not know an opposite of {word}.", f"opposite|{word}", exact=False)
    word = (
        invented_word(rng) if rng.random() < 0.4 else rng.choice([word for word in VOCABULARY if word not in LEXICON])
    )
    language = rng.choice(LANGUAGES)
    user = rng.choice(_UNKNOWN_WORD).format(w=word, l=language)
    return Turn(
        SKILL,
        roughen(rng, user),
        f"I do not know the word {word} in {language}.",
        f"word|{word}|{language}",
        exact=False,
    )


def no_language(rng: random.Random) -> Turn:
    """A translation without a language; a follow-up may name it."""
    word = rng.choice(list(LEXICON))
    user = rng.choice(_NO_LANGUAGE).format(w=word)
    return Turn(
        SKILL,
        roughen(rng, user),
        "Into which language: French, Spanish or German?",
        f"language|{user}",
        (word, ""),
        exact=False,
    )


def too_far(rng: random.Random) -> Turn:
    """Counting that would not end soon."""
    number = rng.randint(31, 200) if rng.random() < 0.5 else rng.choice((50, 100, 100, 200, 500, 1000, 1000000))
    return Turn(
        SKILL,
        roughen(rng, rng.choice(_COUNT_FAR).format(n=number)),
        "That is too far for me: I count up to 30.",
        f"far|{number}",
        exact=False,
    )


def make(rng: random.Random) -> Turn:
    """Any of these requests."""
    return rng.choices((missing, some_fact, examples, unknown_word, no_language, too_far), (25, 5, 30, 30, 10, 5))[0](
        rng
    )


def follow(rng: random.Random, previous: Turn) -> Turn | None:
    """Names the language that was asked for."""
    if len(previous.memo) != 2:
        return None
    word, language = previous.memo[0], rng.choice(LANGUAGES)
    user = roughen(
        rng, rng.choice(("{l}.", "{l}", "Into {l}.", "{l} please.", "To {l}.", "In {l}.")).format(l=language)
    )
    return Turn("translation", user, answer(word, language), f"follow|{word}|{language}|named", (word, language))
