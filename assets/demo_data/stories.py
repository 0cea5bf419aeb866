"""Short stories with a named animal, a thing and a place, the prompts for them, and questions about them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .plots import MOODS, OPENINGS, PLOTS
from .texts import phrases
from .turns import Turn, article, roughen
from .words import ANIMALS, EXTRA, LOOKS, MEN, PLACES, THINGS, TRAITS, WOMEN, any_name, at_place, invented_word

SKILL = "stories"
_LEAD = phrases(
    "Tell me a story about|Tell me a short story about|Tell a story about|Write a story about|Write a short story "
    "about|I want a story about|Story about|A story about|Give me a story about|Make up a story about|I would like "
    "a story about|Tell us a story about|A tale about|Write a tale about"
)
_WHO = phrases("{A} named {N}|{A} named {N}|{A} called {N}|{N} the {a}|{N}, {A}|{N} {the} {a}|{A} whose name is {N}")
_THING = phrases(" and {T}| and {T}| with {T}| who finds {T}| and {K} {t}| who has {T}| that finds {T}| who loses {T}")
_PLACE = (" {W}", " {W}", " who lives {W}", " from {P}", ". It takes place {W}")
_PAIR = phrases("{N} the {a} and {F} the {b}|{A} named {N} and {B} named {F}|{N} and {F}|{A} and {B}|{N}")
_ANY = phrases(
    "Tell me a story.|Tell me another story.|A story please.|Write a story.|Story time!|Can you tell me a story?|I "
    "want to hear a story.|Make up a story.|Tell me a short story.|Another story!|Story|Once upon a time|Surprise "
    "me with a story.|Do you have a story for me?"
)


@dataclass(frozen=True, slots=True)
class Cast:
    """Who and what a story is about."""

    name: str
    he: bool
    animal: str
    thing: str
    place: str
    friend: str
    friend_animal: str
    trait: str
    look: str


def new_cast(rng: random.Random) -> Cast:
    """Picks everything a story needs."""
    name, he = any_name(rng)
    friend = name
    while friend == name:
        friend, _ = any_name(rng)
    animal, other = rng.sample(ANIMALS, k=2)
    if rng.random() < 0.15:
        animal = invented_word(rng, 2) if rng.random() < 0.2 else rng.choice(MEN if he else WOMEN)
    roll = rng.random()
    thing = invented_word(rng, 2) if roll < 0.06 else rng.choice(EXTRA) if roll < 0.12 else rng.choice(THINGS)
    return Cast(name, he, animal, thing, rng.choice(PLACES), friend, other, rng.choice(TRAITS), rng.choice(LOOKS))


def fields(cast: Cast, rng: random.Random) -> dict[str, str]:
    """The words that fill the slots of prompts and plots."""
    second = rng.choice([place for place in PLACES if place != cast.place])
    return dict(
        N=cast.name,
        a=cast.animal,
        A=article(cast.animal),
        t=cast.thing,
        T=article(cast.thing),
        W=at_place(cast.place),
        P=f"the {cast.place}",
        F=cast.friend,
        b=cast.friend_animal,
        B=article(cast.friend_animal),
        q=cast.trait,
        Q=article(cast.trait),
        k=cast.look,
        K=article(cast.look),
        A2=article("old"),
        W2=at_place(second),
        the="the",
        he="he" if cast.he else "she",
        He="He" if cast.he else "She",
        his="his" if cast.he else "her",
        him="him" if cast.he else "her",
        himself="himself" if cast.he else "herself",
    )


def tell(rng: random.Random, cast: Cast, plot: str) -> str:
    """Writes the story: an opening, then one sentence for each step of the plot."""
    slots = fields(cast, rng)
    sentences = [rng.choice(OPENINGS), *(rng.choice(ways) for ways in PLOTS[plot])]
    text = " ".join(sentence.format(**slots) for sentence in sentences)
    return text.replace('"a ', '"A ').replace('"an ', '"An ') if '"a' in text else text


def make(rng: random.Random) -> Turn:
    """A prompt that names some of the cast, and a story that keeps to it."""
    cast, plot = new_cast(rng), rng.choice(list(PLOTS))
    slots, roll = fields(cast, rng), rng.random()
    lead = rng.choice(_LEAD)
    if rng.random() < 0.1:
        mood = rng.choice(list(MOODS))
        plot = MOODS[mood]
        lead = rng.choice(("Tell me {} story about", "Write {} story about", "I want {} story about")).format(
            article(mood)
        )
    if roll < 0.42:
        prompt = f"{lead} {rng.choice(_WHO)}{rng.choice(_THING)}"
        if rng.random() < 0.25:
            prompt += rng.choice(_PLACE)
        plot = _fitting(prompt, plot)
    elif roll < 0.58:
        prompt = f"{lead} {rng.choice(_WHO)}{rng.choice(_PLACE)}"
    elif roll < 0.72:
        prompt = f"{lead} {rng.choice(_WHO)}"
    elif roll < 0.82:
        prompt = f"{lead} {rng.choice(('{A}', '{A} and {T}', '{A} {W}', '{A} with {T}'))}"
    elif roll < 0.90:
        prompt = f"{lead} {rng.choice(_PAIR)}"
    elif roll < 0.93:
        prompt = f"{lead} {rng.choice(('{T}', '{K} {t}'))}"
    else:
        prompt = rng.choice(_ANY).rstrip(".")
    user = prompt.format(**slots)
    user = roughen(rng, user if user[-1] in "?!" else f"{user}.")
    return Turn(
        SKILL,
        user,
        tell(rng, cast, plot),
        f"{cast.name}|{cast.animal}|{cast.thing}|{cast.place}",
        memo(cast),
        exact=False,
    )


def _fitting(prompt: str, plot: str) -> str:
    """Keeps "finds" and "loses" in a prompt true."""
    return "found" if "finds" in prompt else "lost" if "loses" in prompt else plot


def memo(cast: Cast) -> tuple[str, ...]:
    """What a question about the story may ask for."""
    """What a question about the story may ask for."""
    return (cast.name, cast.animal, cast.thing, at_place(cast.place), cast.friend, cast.friend_animal)


def follow(rng: random.Random, previous: Turn) -> Turn:
    """A question about the story just told; its answer can be read from the story."""
    name, animal, thing, place, friend, other = previous.memo
    kind = rng.randrange(7)
    if kind == 5:
        user = roughen(
            rng,
            rng.choice(
                phrases(
                    "Another one.|Tell me another one.|Another story.|One more.|Again!|Another|Tell me another story."
                )
            ),
        )
        cast = new_cast(rng)
        return Turn(
            SKILL,
            user,
            tell(rng, cast, rng.choice(list(PLOTS))),
            f"{cast.name}|{cast.animal}|{cast.thing}|{cast.place}",
            memo(cast),
            exact=False,
        )
    if kind == 0:
        users: tuple[str, ...] = (
            f"What was the name of the {animal}?",
            f"Who is the {animal}?",
            f"What is the {animal} called?",
            f"Name of the {animal}?",
        )
        answer = f"The {animal} is called {name}."
    elif kind == 1:
        users = (f"What kind of animal is {name}?", f"Who is {name}?", f"What is {name}?", f"Which animal is {name}?")
        answer = f"{name} is {article(animal)}."
    elif kind == 2:
        users = (
            f"Where does {name} live?",
            "Where does the story take place?",
            f"Where did {name} live?",
            "Where was that?",
        )
        answer = f"{name} lives {place}."
    elif kind == 3:
        users = (f"Who is {friend}?", f"What kind of animal is {friend}?", f"What is {friend}?")
        answer = f"{friend} is {article(other)}."
    elif kind == 6:
        users = phrases(
            "What happened next?|And then?|What happens next?|Continue.|Go on.|Tell me more.|Make it longer.|What "
            "then?|Is that the end?"
        )
        answer = "That was the end of the story. Shall I tell you another one?"
    else:
        users = (
            "What was the thing in the story?",
            f"Which thing did {name} have?",
            "What thing was it about?",
            "What object is in the story?",
        )
        answer = f"It was {article(thing)}."
    return Turn(
        "story questions", roughen(rng, rng.choice(users)), answer, f"{kind}|{previous.key}", previous.memo, exact=False
    )
