"""Small JSON: objects from fields or from a sentence, arrays, and values read back out."""

from __future__ import annotations

import json
import random

from .facts import CAPITALS
from .texts import phrases
from .turns import Turn, ask, roughen
from .words import ANIMALS, COLOURS, FOODS, FRUITS, THINGS, VOCABULARY, any_name, invented_word, some_items

SKILL = "json"
_FIELDS = ("name", "age", "city", "colour", "pet", "food", "thing", "size", "count", "price")
_MORE_FIELDS = phrases("title|year|score|id|animal|fruit|country|friend|number|weight|height|color")
_MAKE = phrases(
    "Make a JSON object with {f}.|Write JSON with {f}.|Write a JSON object with {f}.|Give me JSON with {f}.|Make "
    "JSON with {f}.|JSON with {f}|Create a JSON object with {f}.|Turn this into JSON: {f}|Convert to JSON: {f}|As "
    "JSON: {f}|Put {f} into JSON.|I need JSON with {f}."
)
_READ = phrases(
    "What is the {k} in {j}?|Read the {k} from {j}|Here is JSON: {j} What is the {k}?|{j} What is the {k}?|Given "
    "{j}, what is the {k}?|Find the {k} in this JSON: {j}|Get the {k} from {j}"
)
_ARRAY = phrases(
    "Make a JSON array of {x}.|Write {x} as a JSON array.|JSON array with {x}|Turn {x} into a JSON array.|Make a "
    "JSON list of {x}.|Write a JSON list with {x}."
)
_SENTENCE = (
    ("{name} is {age} years old and lives in {city}.", ("name", "age", "city")),
    ("{name} is {age} years old.", ("name", "age")),
    ("{name} lives in {city} and likes {food}.", ("name", "city", "food")),
    ("{name} has a {colour} {thing}.", ("name", "colour", "thing")),
    ("{name} is {age} and likes {food}.", ("name", "age", "food")),
    ("{name} from {city} is {age} years old.", ("name", "city", "age")),
)
_FROM_SENTENCE = phrases(
    "Turn this sentence into JSON: {s}|Write this as JSON: {s}|Make JSON from this: {s}|Extract JSON: {s}|Convert "
    "this sentence to JSON: {s}"
)


def _value(rng: random.Random, field: str) -> str | int:
    if field == "name":
        return any_name(rng)[0]
    if field in ("age", "count", "price", "size"):
        return rng.randint(1, 99)
    if field == "city":
        return rng.choice(list(CAPITALS.values()))
    if field in ("year", "score", "id", "number", "weight", "height"):
        return rng.randint(1, 99) if rng.random() < 0.7 else rng.randint(100, 2030)
    if field == "country":
        return rng.choice([name for name in CAPITALS if name[0] != "t"])
    if field == "friend":
        return any_name(rng)[0]
    if field not in ("colour", "pet", "food", "thing", "color", "animal", "fruit"):
        return invented_word(rng) if rng.random() < 0.2 else rng.choice(VOCABULARY)
    pool = {
        "color": COLOURS,
        "animal": ANIMALS,
        "fruit": FRUITS,
        "colour": COLOURS,
        "pet": ANIMALS,
        "food": FOODS,
        "thing": THINGS,
    }[field]
    return rng.choice(pool)


def dump(value: object) -> str:
    """JSON on one line, as the model writes it."""
    return json.dumps(value, ensure_ascii=False)


def _fields(rng: random.Random, low: int, high: int) -> dict[str, str | int]:
    pool = _FIELDS if rng.random() < 0.6 else _FIELDS + _MORE_FIELDS
    if rng.random() < 0.15:
        pool = (*pool, *rng.sample([word for word in VOCABULARY if word not in _FIELDS + _MORE_FIELDS], k=8))
    names = rng.sample(pool, k=rng.randint(low, high))
    if rng.random() < 0.6 and "name" in names:
        names.sort(key=lambda name: name != "name")
    return {name: _value(rng, name) for name in names}


def make_object(rng: random.Random) -> Turn:
    """An object from fields that the prompt lists."""
    fields = _fields(rng, 1, 4)
    style, glue = (
        rng.choice(("{k} {v}", "{k} {v}", "{k}: {v}", "{k}={v}", "{k} = {v}")),
        rng.choice((", ", ", ", " and ")),
    )
    parts = [style.format(k=name, v=value) for name, value in fields.items()]
    text = (
        glue.join(parts)
        if glue == ", " or len(parts) == 2
        else ", ".join(parts[:-1]) + f" and {parts[-1]}"
        if len(parts) > 1
        else parts[0]
    )
    user, _ = ask(rng, _MAKE, fold=False, f=text)
    return Turn(
        SKILL, user, dump(fields), f"object|{dump(fields)}", tuple(f"{name}\t{value}" for name, value in fields.items())
    )


def read_value(rng: random.Random) -> Turn:
    """One value of an object that the prompt shows."""
    fields = _fields(rng, 2, 4)
    name = rng.choice(list(fields))
    user, _ = ask(rng, _READ, fold=False, k=name, j=dump(fields))
    return Turn(
        SKILL,
        user,
        f"The {name} is {fields[name]}.",
        f"read|{name}|{dump(fields)}",
        tuple(f"{key}\t{value}" for key, value in fields.items()),
    )


def make_array(rng: random.Random) -> Turn:
    """An array of words or numbers."""
    numbers = rng.random() < 0.3
    items: list[str] | list[int] = rng.sample(range(100), k=rng.randint(2, 5)) if numbers else some_items(rng, 2, 4)
    texts = [str(item) for item in items]
    glue = ", ".join(texts) if rng.random() < 0.6 else ", ".join(texts[:-1]) + f" and {texts[-1]}"
    user, _ = ask(rng, _ARRAY, fold=False, x=glue)
    return Turn(SKILL, user, dump(items), f"array|{dump(items)}")


def from_sentence(rng: random.Random) -> Turn:
    """An object from a sentence."""
    sentence, names = rng.choice(_SENTENCE)
    fields = {name: _value(rng, name) for name in names}
    user = rng.choice(_FROM_SENTENCE).format(s=sentence.format(**fields))
    return Turn(
        SKILL,
        roughen(rng, user, fold=False),
        dump(fields),
        f"sentence|{dump(fields)}",
        tuple(f"{key}\t{value}" for key, value in fields.items()),
    )


def make(rng: random.Random) -> Turn:
    """Any JSON turn."""
    roll = rng.random()
    return (
        make_object(rng)
        if roll < 0.5
        else read_value(rng)
        if roll < 0.68
        else make_array(rng)
        if roll < 0.82
        else from_sentence(rng)
    )


def follow(rng: random.Random, previous: Turn) -> Turn | None:
    """Asks for a value of the object in the last turn, or for one more field."""
    if not previous.memo:
        return None
    pairs = [pair.split("\t") for pair in previous.memo]
    if rng.random() < 0.5 or previous.answer[0] != "{":
        name, value = rng.choice(pairs)
        user, _ = ask(
            rng, ("What is the {k}?", "And what is the {k}?", "Which {k} is in it?", "What was the {k}?"), k=name
        )
        return Turn(SKILL, user, f"The {name} is {value}.", f"read|{name}|{previous.key}", previous.memo)
    fields = json.loads(previous.answer)
    free = [name for name in _FIELDS if name not in fields]
    name = rng.choice(free)
    fields[name] = _value(rng, name)
    user, _ = ask(
        rng,
        ("Add {k} {v}.", "Now add {k} {v}.", "Add {k}: {v}", "Also add {k} {v}."),
        fold=False,
        k=name,
        v=str(fields[name]),
    )
    return Turn(
        SKILL, user, dump(fields), f"object|{dump(fields)}", tuple(f"{key}\t{value}" for key, value in fields.items())
    )
