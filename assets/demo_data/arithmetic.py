"""Sums, differences and products of one- and two-digit numbers, with a few word problems."""

from __future__ import annotations

import random

from .texts import phrases, words
from .turns import Turn, ask, roughen
from .words import FRUITS, THINGS, any_name

SKILL = "arithmetic"
_SIGNS = {
    "+": ("+", "+", "+", "plus", "plus", "and"),
    "-": ("-", "-", "-", "minus", "minus"),
    "*": ("*", "*", "x", "times", "times", "multiplied by", "×"),
}
_TEMPLATES = phrases(
    "What is {e}?|What is {e}?|What's {e}?|Calculate {e}.|Compute {e}.|{e}|{e}|{e} =|{e}=?|How much is {e}?|Work "
    "out {e}.|What does {e} make?|Solve {e}.|Tell me {e}.|{e} is?|What do you get for {e}?|How much does {e} make?|"
    "Do the sum {e}.|What is the answer to {e}?|I need to know {e}.|Give me {e}.|What is the result of {e}?"
)
_SPOKEN = {
    "+": ("Add {a} and {b}.", "Add {b} to {a}.", "What is the sum of {a} and {b}?"),
    "-": ("Subtract {b} from {a}.", "Take {b} away from {a}.", "What is the difference {a} minus {b}?"),
    "*": ("Multiply {a} by {b}.", "Multiply {a} and {b}.", "What is the product of {a} and {b}?"),
}
_NUMBER_WORDS = words("zero one two three four five six seven eight nine ten eleven twelve")
_GAIN = (
    "{n} has {a} {t} and finds {b} more. How many {t} does {n} have now?",
    "{n} had {a} {t} and got {b} more. How many {t} are there now?",
)
_LOSS = (
    "{n} has {a} {t} and gives away {b}. How many {t} are left?",
    "{n} had {a} {t} and lost {b}. How many {t} does {n} have now?",
)


def solve(a: int, sign: str, b: int) -> str:
    """Writes the answer the way the model is taught to: the task again, then the result.

    A product of a two-digit and a one-digit number goes through its tens and ones.
    """
    if sign == "+":
        return f"{a} + {b} = {a + b}"
    if sign == "-":
        return f"{a} - {b} = {a - b}"
    big, small = max(a, b), min(a, b)
    if big > 12 and small > 1 and big % 10:
        return f"{a} * {b} = {big // 10 * 10 * small} + {big % 10 * small} = {a * b}"
    return f"{a} * {b} = {a * b}"


def operands(rng: random.Random, sign: str) -> tuple[int, int]:
    """Picks two numbers in the range that is taught for a sign."""
    if sign == "*":
        if rng.random() < 0.4:
            return rng.randint(0, 12), rng.randint(0, 12)
        pair = rng.randint(2, 9), rng.randint(10, 99)
        return pair if rng.random() < 0.4 else (pair[1], pair[0])
    small = rng.random() < 0.15
    a, b = (rng.randint(0, 12), rng.randint(0, 12)) if small else (rng.randint(0, 99), rng.randint(0, 99))
    if rng.random() < 0.15:
        b = rng.randint(0, 9)
    if sign == "-" and a < b and rng.random() < 0.75:
        a, b = b, a
    return a, b


def _key(a: int, sign: str, b: int, number: int) -> str:
    """Sums and differences split by operands; the small times table, which must be known, by wording too."""
    return f"{a}{sign}{b}|{number}" if sign == "*" and max(a, b) <= 12 else f"{a}{sign}{b}"


def make_sum(rng: random.Random) -> Turn:
    """One task with a sign or its word, in many wordings."""
    sign = rng.choice("++++---***")
    a, b = operands(rng, sign)
    if rng.random() < 0.15:
        user, number = ask(rng, _SPOKEN[sign], a=str(a), b=str(b))
        number += 100
    else:
        word = rng.choice(_SIGNS[sign])
        gap = " " if word.isalpha() or " " in word or rng.random() < 0.5 else ""
        words = max(a, b) <= 12 and word.isalpha() and rng.random() < 0.3
        left, right = (_NUMBER_WORDS[a], _NUMBER_WORDS[b]) if words else (str(a), str(b))
        user, number = ask(rng, _TEMPLATES, e=f"{left}{gap}{word}{gap}{right}")
    return Turn(SKILL, user, solve(a, sign, b), _key(a, sign, b, number), (str(_value(a, sign, b)),))


def _value(a: int, sign: str, b: int) -> int:
    return a + b if sign == "+" else a - b if sign == "-" else a * b


def make_problem(rng: random.Random) -> Turn:
    """A word problem with small numbers."""
    name, _ = any_name(rng)
    thing = rng.choice(FRUITS + THINGS)
    things = thing + ("es" if thing[-1] in "sxh" else "s") if not thing.endswith("y") else thing[:-1] + "ies"
    a, b = rng.randint(2, 30), rng.randint(1, 12)
    gain = rng.random() < 0.5 or b > a
    user = rng.choice(_GAIN if gain else _LOSS).format(n=name, a=a, b=b, t=things)
    sign = "+" if gain else "-"
    return Turn(
        SKILL,
        roughen(rng, user, fold=False),
        solve(a, sign, b),
        f"problem|{a}{sign}{b}|{name}|{thing}",
        (str(_value(a, sign, b)),),
    )


def make_compare(rng: random.Random) -> Turn:
    """Which of two numbers is bigger or smaller."""
    a, b = rng.sample(range(100), 2)
    big = rng.random() < 0.6
    word = rng.choice(("bigger", "larger", "greater")) if big else rng.choice(("smaller", "less"))
    user, _ = ask(
        rng,
        ("Which is {w}, {a} or {b}?", "What is {w}: {a} or {b}?", "Which number is {w}, {a} or {b}?"),
        w=word,
        a=str(a),
        b=str(b),
    )
    result = max(a, b) if big else min(a, b)
    return Turn(SKILL, user, f"{result} is {'bigger' if big else 'smaller'}", f"compare|{big}|{a}|{b}", (str(result),))


def make_three(rng: random.Random) -> Turn:
    """Three numbers added up, in two steps."""
    a, b, c = rng.randint(1, 40), rng.randint(1, 40), rng.randint(1, 19)
    gap = rng.choice((" + ", "+", " plus "))
    user, _ = ask(rng, _TEMPLATES, e=gap.join((str(a), str(b), str(c))))
    return Turn(SKILL, user, f"{a} + {b} + {c} = {a + b} + {c} = {a + b + c}", f"{a}+{b}+{c}", (str(a + b + c),))


def make_parity(rng: random.Random) -> Turn:
    """Whether a number is even or odd."""
    value = rng.randint(0, 99)
    templates = phrases(
        "Is {a} even?|Is {a} odd?|Is {a} even or odd?|Is {a} an even number?|Is {a} an odd number?|Is the number "
        "{a} odd or even?"
    )
    user, number = ask(rng, templates, a=str(value))
    return Turn(SKILL, user, f"{value} is {'odd' if value % 2 else 'even'}", f"parity|{value}|{number}", (str(value),))


def make(rng: random.Random) -> Turn:
    """Any arithmetic turn."""
    roll = rng.random()
    if roll < 0.82:
        return make_sum(rng)
    return (
        make_problem(rng)
        if roll < 0.89
        else make_compare(rng)
        if roll < 0.93
        else make_three(rng)
        if roll < 0.97
        else make_parity(rng)
    )


def follow(rng: random.Random, previous: Turn) -> Turn | None:
    """Goes on from the last result ("and plus 5?"), if it is small enough."""
    last = int(previous.memo[0])
    sign = rng.choice("+-*")
    other = rng.randint(2, 9) if sign == "*" else rng.randint(1, 20)
    if not 0 <= last <= 99 or (sign == "-" and other > last):
        return None
    words = {
        "+": ("plus", "add", "and add"),
        "-": ("minus", "subtract", "now take away"),
        "*": ("times", "multiplied by"),
    }[sign]
    user = rng.choice(("{w} {b}?", "And {w} {b}?", "{w} {b}", "now {w} {b}")).format(w=rng.choice(words), b=other)
    return Turn(SKILL, user, solve(last, sign, other), f"{last}{sign}{other}", (str(_value(last, sign, other)),))
