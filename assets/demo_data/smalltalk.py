"""Small talk: greetings, who the model is, how it works, feelings, thanks, and the user's own name."""

from __future__ import annotations

import random

from .smalltalk_lines import JOKE_ASK, JOKES, LIKES, TALK
from .texts import phrases
from .turns import Turn, roughen
from .words import ANIMALS, COLOURS, FOODS, any_name

SKILL = "small talk"


def talk(rng: random.Random) -> Turn:
    """A stock phrase and a fitting answer."""
    asks, answers = (cell.split("|") for cell in rng.choice(TALK if rng.random() < 0.75 else TALK[:12]))
    clean = rng.choice(asks)
    text = clean if clean[-1] in "?!." or rng.random() < 0.4 else clean + rng.choice(".!")
    if rng.random() < 0.4:
        text = text.rstrip("?.!")
    if rng.random() < 0.4:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.replace("'", "")
    return Turn(SKILL, text, rng.choice(answers), f"{clean}", exact=False)


def joke(rng: random.Random) -> Turn:
    """A joke."""
    return Turn(SKILL, roughen(rng, rng.choice(JOKE_ASK)), rng.choice(JOKES), "joke", exact=False)


def name_turns(rng: random.Random) -> list[Turn]:
    """Someone says their name and may ask for it later."""
    name, _ = any_name(rng)
    first = rng.choice(
        phrases(
            "My name is {n}.|I am {n}.|I'm {n}.|Hi, I'm {n}.|Hello, my name is {n}.|Call me {n}.|Hi, my name is {n}.|"
            "Hi! I am {n}."
        )
    )
    turns = [
        Turn(
            SKILL,
            roughen(rng, first.format(n=name), fold=False),
            f"Nice to meet you, {name}! How can I help you?",
            f"name|{name}",
            exact=False,
        )
    ]
    if rng.random() < 0.75:
        second = rng.choice(
            phrases("What is my name?|What's my name?|Do you know my name?|Do you remember my name?|Who am I?")
        )
        turns.append(Turn(SKILL, roughen(rng, second), f"Your name is {name}.", f"recall|{name}", exact=False))
    return turns


def liking(rng: random.Random) -> Turn:
    """Someone tells what they like or have."""
    animal, colour, food = rng.choice(ANIMALS), rng.choice(COLOURS), rng.choice(FOODS)
    form = rng.choice(LIKES)
    things = (
        f"{animal}s"
        if rng.random() < 0.5 and animal not in ("sheep", "fish", "deer", "mouse", "wolf", "goose")
        else food
    )
    user = form.format(x=things, c=colour, a=animal, f=food)
    answer = {
        "x": f"I am glad that you like {things}! What would you like to do?",
        "c": f"{colour.capitalize()} is a lovely colour!",
        "a": f"How nice! Shall I tell you a story about a {animal}?",
        "f": "Enjoy your meal!",
    }
    return Turn(SKILL, roughen(rng, user), answer[form.split("{")[1][0]], f"like|{user}", exact=False)


def make(rng: random.Random) -> Turn:
    """Any turn of small talk that stands alone."""
    roll = rng.random()
    return talk(rng) if roll < 0.84 else joke(rng) if roll < 0.92 else liking(rng)
