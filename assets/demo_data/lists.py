"""Sorting, reversing and counting of words and numbers in lists."""

from __future__ import annotations

import random
from collections.abc import Sequence

from .texts import phrases
from .turns import Turn, ask, join_and
from .words import some_items

_SORT_WORDS = phrases(
    "Sort these words: {x}|Sort alphabetically: {x}|Sort {x}.|Put these words in alphabetical order: {x}|Sort "
    "these words in alphabetical order: {x}.|Order these words from a to z: {x}|Put {x} in alphabetical order.|"
    "Sort the list {x}.|Sort this list: {x}|Alphabetise these words: {x}|Can you sort {x}?"
)
_SORT_UP = phrases(
    "Sort these numbers: {x}|Sort {x}.|Put these numbers in order: {x}|Sort from smallest to largest: {x}|Order "
    "these numbers: {x}|Sort the numbers {x}.|Put {x} in order.|Sort this list: {x}|Sort the list {x} in ascending "
    "order."
)
_SORT_DOWN = phrases(
    "Sort from largest to smallest: {x}|Sort these numbers from largest to smallest: {x}|Sort {x} in descending "
    "order.|Put these numbers in descending order: {x}|Sort these numbers from high to low: {x}"
)
_REVERSE = phrases(
    "Reverse the list {x}.|Reverse this list: {x}|Reverse: {x}|Reverse the order of {x}.|Say these words "
    "backwards: {x}|Turn this list around: {x}|Write this list in reverse order: {x}|Reverse {x}.|List these in "
    "reverse: {x}|Put this list in reverse order: {x}|Give me {x} in reverse order."
)
_COUNT = phrases(
    "How many words are in this list: {x}?|Count the words: {x}|How many items are there: {x}?|How many things are "
    "in this list: {x}?|Count these: {x}|Count the items in this list: {x}|How many words are there in {x}?|How "
    "many items in the list {x}?|Count {x}."
)
_PICK = {
    "first": phrases(
        "What is the first word of {x}?|Which word comes first: {x}?|First item of this list: {x}|What is the "
        "first item in the list {x}?"
    ),
    "last": phrases(
        "What is the last word of {x}?|Which word comes last: {x}?|Last item of this list: {x}|What is the last "
        "item in the list {x}?"
    ),
}
_EXTREME = {
    "largest": phrases(
        "What is the largest number: {x}?|Which is the largest of {x}?|Find the biggest number: {x}|What is the "
        "maximum of {x}?|Largest of {x}?"
    ),
    "smallest": phrases(
        "What is the smallest number: {x}?|Which is the smallest of {x}?|Find the smallest number: {x}|What is the "
        "minimum of {x}?|Smallest of {x}?"
    ),
}


def written(rng: random.Random, items: Sequence[str]) -> str:
    """Writes a list the way people type one."""
    roll = rng.random()
    return ", ".join(items) if roll < 0.65 else join_and(items) if roll < 0.85 else " ".join(items)


def some_numbers(rng: random.Random) -> list[int]:
    """Three to five different numbers."""
    return rng.sample(range(10 if rng.random() < 0.25 else 100), k=rng.randint(3, 5))


def _turn(
    rng: random.Random, skill: str, task: str, templates: Sequence[str], items: Sequence[str], answer: str
) -> Turn:
    fold = all(item == item.lower() for item in items)
    user, _ = ask(rng, templates, fold=fold, x=written(rng, items))
    return Turn(skill, user, answer, f"{task}|{'|'.join(items)}", tuple(items))


def sort_list(rng: random.Random) -> Turn:
    """Words from a to z, numbers up or down."""
    if rng.random() < 0.55:
        words = some_items(rng, distinct_initials=rng.random() < 0.85)
        return _turn(rng, "sorting", "words", _SORT_WORDS, words, sorted_text(words))
    numbers = some_numbers(rng)
    items = [str(number) for number in numbers]
    if rng.random() < 0.7:
        return _turn(rng, "sorting", "up", _SORT_UP, items, sorted_text(items))
    return _turn(
        rng, "sorting", "down", _SORT_DOWN, items, ", ".join(str(number) for number in sorted(numbers, reverse=True))
    )


def sorted_text(items: Sequence[str]) -> str:
    """The sorted list: numbers by value, words by letters."""
    if all(item.isdigit() for item in items):
        return ", ".join(sorted(items, key=int))
    return ", ".join(sorted(items))


def reverse_list(rng: random.Random) -> Turn:
    """A list backwards."""
    items = [str(number) for number in some_numbers(rng)] if rng.random() < 0.3 else some_items(rng)
    return _turn(rng, "reversing", "list", _REVERSE, items, ", ".join(reversed(items)))


def count_list(rng: random.Random) -> Turn:
    """How many items a list has."""
    items = some_items(rng, 2, 8)
    return _turn(rng, "counting", "items", _COUNT, items, count_answer(items))


def count_answer(items: Sequence[str]) -> str:
    """The one way a count of items is told."""
    return f"There are {len(items)}."


def pick_item(rng: random.Random) -> Turn:
    """The first or last word, the largest or smallest number."""
    if rng.random() < 0.5:
        which = rng.choice(("first", "last"))
        items = some_items(rng)
        chosen = items[0 if which == "first" else -1]
        return _turn(rng, "sorting", which, _PICK[which], items, f"The {which} is {chosen}.")
    which = rng.choice(("largest", "smallest"))
    numbers = some_numbers(rng)
    value = max(numbers) if which == "largest" else min(numbers)
    return _turn(
        rng, "sorting", which, _EXTREME[which], [str(number) for number in numbers], f"The {which} is {value}."
    )


def count_up(rng: random.Random) -> Turn:
    """Counting from one number to another, up, down or by steps."""
    roll = rng.random()
    if roll < 0.6:
        low = 1 if rng.random() < 0.25 else rng.randint(0, 60)
        high = low + rng.randint(2, 11)
        templates = phrases(
            "Count from {a} to {b}.|Count up from {a} to {b}.|List the numbers from {a} to {b}.|Numbers from {a} "
            "to {b}?|Count {a} to {b}."
        )
        if low == 1:
            high = rng.randint(3, 30) if rng.random() < 0.5 else high
            templates = ("Count to {b}.", "Count up to {b}.", "Count from 1 to {b}.", "Count from one to {b}.")
        values = range(low, high + 1)
    elif roll < 0.85:
        high = rng.randint(3, 40)
        low = rng.choice((0, 1, high - rng.randint(3, 9))) if high <= 12 else high - rng.randint(3, 9)
        low = max(low, 0)
        templates = ("Count down from {b} to {a}.", "Count backwards from {b} to {a}.", "Count from {b} down to {a}.")
        values = range(high, low - 1, -1)
    else:
        step = rng.choice((2, 5, 10))
        low, high = step, step * rng.randint(3, 10)
        name = {2: "twos", 5: "fives", 10: "tens"}[step]
        templates = (
            f"Count by {name} to {{b}}.",
            f"Count in {name} up to {{b}}.",
            f"Count by {step} to {{b}}.",
            f"Count to {{b}} in {name}.",
        )
        values = range(low, high + 1, step)
    user, number = ask(rng, templates, a=str(low), b=str(high))
    return Turn("counting", user, ", ".join(map(str, values)), f"count|{values}|{number}")


def follow(rng: random.Random, previous: Turn) -> Turn | None:
    """Asks for something else to be done with the list of the last turn."""
    items = previous.memo
    if not items:
        return None
    task = rng.choice(("sort", "reverse", "count", "first", "last"))
    if task == "sort":
        user, _ = ask(
            rng, phrases("Now sort them.|And sorted?|Sort it.|Can you sort them?|Now sort that list.|Sort the list.")
        )
        return Turn("sorting", user, sorted_text(items), f"words|{'|'.join(items)}", items)
    if task == "reverse":
        user, _ = ask(
            rng,
            phrases(
                "Now reverse the list.|And the original list reversed?|Reverse my list.|Now reverse my list.|Reverse "
                "the first list."
            ),
        )
        return Turn("reversing", user, ", ".join(reversed(items)), f"list|{'|'.join(items)}", items)
    if task == "count":
        user, _ = ask(
            rng,
            phrases(
                "How many are there?|How many items is that?|Count them.|How many words is that?|And how many are "
                "there?"
            ),
        )
        return Turn("counting", user, count_answer(items), f"items|{'|'.join(items)}", items)
    user, _ = ask(
        rng, ("Which one came {w} in my list?", "What was the {w} one I gave you?", "What was {w} in my list?"), w=task
    )
    return Turn(
        "sorting", user, f"The {task} is {items[0 if task == 'first' else -1]}.", f"{task}|{'|'.join(items)}", items
    )
