"""Things that must simply be known: capitals, opposites, young animals, days and months."""

from __future__ import annotations

import random

from .texts import phrases, words
from .turns import Maker, Turn, ask

CAPITALS = dict(
    pair.split(":")
    for pair in phrases(
        "France:Paris|Spain:Madrid|Germany:Berlin|Italy:Rome|Portugal:Lisbon|England:London|Ireland:Dublin|"
        "Scotland:Edinburgh|Wales:Cardiff|Norway:Oslo|Sweden:Stockholm|Finland:Helsinki|Denmark:Copenhagen|"
        "Iceland:Reykjavik|Poland:Warsaw|Austria:Vienna|Hungary:Budapest|Greece:Athens|Turkey:Ankara|Russia:Moscow|"
        "Ukraine:Kyiv|Romania:Bucharest|Bulgaria:Sofia|Serbia:Belgrade|Croatia:Zagreb|Belgium:Brussels|"
        "Switzerland:Bern|Egypt:Cairo|Kenya:Nairobi|Morocco:Rabat|Nigeria:Abuja|Ethiopia:Addis Ababa|Ghana:Accra|"
        "Senegal:Dakar|Japan:Tokyo|China:Beijing|India:New Delhi|Thailand:Bangkok|Vietnam:Hanoi|Indonesia:Jakarta|"
        "Nepal:Kathmandu|Pakistan:Islamabad|Iran:Tehran|Iraq:Baghdad|Canada:Ottawa|Mexico:Mexico City|Cuba:Havana|"
        "Brazil:Brasilia|Argentina:Buenos Aires|Chile:Santiago|Peru:Lima|Colombia:Bogota|Ecuador:Quito|"
        "Uruguay:Montevideo|Australia:Canberra|New Zealand:Wellington|the United States:Washington|the United "
        "Kingdom:London|the Netherlands:Amsterdam|South Korea:Seoul|Estonia:Tallinn|Latvia:Riga"
    )
)
_PAIRS = (
    "hot:cold big:small tall:short fast:slow happy:sad light:dark day:night up:down in:out left:right "
    "open:closed full:empty hard:soft old:new rich:poor strong:weak thick:thin wide:narrow wet:dry clean:dirty "
    "early:late loud:quiet heavy:light good:bad high:low near:far first:last true:false right:wrong "
    "easy:difficult long:short deep:shallow sweet:sour smooth:rough sharp:blunt brave:afraid awake:asleep "
    "alive:dead love:hate win:lose buy:sell push:pull give:take start:stop begin:end laugh:cry front:back "
    "top:bottom inside:outside north:south east:west summer:winter black:white yes:no always:never many:few "
    "more:less young:old war:peace friend:enemy before:after above:below arrive:leave remember:forget "
    "safe:dangerous polite:rude calm:angry beautiful:ugly "
)
OPPOSITES: dict[str, str] = {}
for _pair in _PAIRS.split():
    _left, _right = _pair.split(":")
    OPPOSITES.setdefault(_left, _right)
    OPPOSITES.setdefault(_right, _left)

YOUNG = dict(
    pair.split(":")
    for pair in words(
        "cat:kitten dog:puppy cow:calf horse:foal sheep:lamb pig:piglet goat:kid bear:cub lion:cub duck:duckling "
        "goose:gosling hen:chick frog:tadpole deer:fawn swan:cygnet kangaroo:joey owl:owlet wolf:pup seal:pup "
        "elephant:calf"
    )
)
SOUNDS = dict(
    pair.split(":")
    for pair in words(
        "cat:meow dog:woof cow:moo sheep:baa pig:oink duck:quack horse:neigh lion:roar frog:ribbit bee:buzz owl:hoot"
    )
)
LEGS = dict(
    pair.split(":")
    for pair in words(
        "spider:8 ant:6 bee:6 dog:4 cat:4 horse:4 bird:2 duck:2 snake:0 fish:0 fox:4 cow:4 butterfly:6 penguin:2 "
        "person:2"
    )
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")

_CAPITAL = phrases(
    "What is the capital of {c}?|What's the capital of {c}?|Capital of {c}?|Tell me the capital of {c}.|Name the "
    "capital of {c}.|Which city is the capital of {c}?|The capital of {c}?|Give me the capital of {c}.|What is the "
    "capital city of {c}?|Do you know the capital of {c}?|{c} capital?|Which city is {c}'s capital?"
)
_COUNTRY = phrases(
    "{t} is the capital of which country?|Which country has the capital {t}?|What country is {t} the capital of?|"
    "Of which country is {t} the capital?"
)
_OPPOSITE = phrases(
    "What is the opposite of {w}?|What's the opposite of {w}?|Opposite of {w}?|Tell me the opposite of {w}.|Give "
    "me the opposite of {w}.|The opposite of {w} is?|What word means the opposite of {w}?|Name the opposite of "
    "{w}.|{w} opposite?|What is the antonym of {w}?"
)
_YOUNG = phrases(
    "What is a baby {a} called?|What do you call a baby {a}?|What is the name for a young {a}?|What is a young {a} "
    "called?"
)
_SOUND = phrases("What sound does a {a} make?|What does a {a} say?|Which sound does a {a} make?|How does a {a} sound?")
_LEGS = ("How many legs does a {a} have?", "How many legs has a {a}?", "Number of legs of a {a}?")
_NEXT = phrases(
    "What {u} comes after {x}?|Which {u} comes after {x}?|What {u} is after {x}?|Which {u} follows {x}?|What comes "
    "after {x}?"
)
_BACK = phrases("What {u} comes before {x}?|Which {u} comes before {x}?|What {u} is before {x}?|What comes before {x}?")


def capital(rng: random.Random, country: str | None = None) -> Turn:
    """The capital of a country, or now and then the country of a capital."""
    country = country or rng.choice(list(CAPITALS))
    town = CAPITALS[country]
    if rng.random() < 0.15 and town != "London":
        user, number = ask(rng, _COUNTRY, t=town)
        return Turn("capitals", user, f"{town} is the capital of {country}.", f"country|{country}|{number}", (country,))
    user, number = ask(rng, _CAPITAL, c=country)
    return Turn(
        "capitals",
        user[0].upper() + user[1:] if user[0] == "t" and rng.random() < 0.5 else user,
        capital_answer(country),
        f"{country}|{number}",
        (country,),
    )


def capital_answer(country: str) -> str:
    """The one way a capital is told."""
    return f"The capital of {country} is {CAPITALS[country]}."


def capital_follow(rng: random.Random, previous: Turn) -> Turn:
    """Asks for another country's capital in a few words ("and Spain?")."""
    country = rng.choice([name for name in CAPITALS if name != previous.memo[0]])
    user, number = ask(
        rng, phrases("And {c}?|And of {c}?|What about {c}?|{c}?|How about {c}?|And the capital of {c}?"), c=country
    )
    return Turn("capitals", user, capital_answer(country), f"follow|{country}|{number}", (country,))


def opposite(rng: random.Random, word: str | None = None) -> Turn:
    """The opposite of a word."""
    word = word or rng.choice(list(OPPOSITES))
    user, number = ask(rng, _OPPOSITE, w=word)
    return Turn("opposites", user, opposite_answer(word), f"{word}|{number}", (word,))


def opposite_answer(word: str) -> str:
    """The one way an opposite is told."""
    return f"The opposite of {word} is {OPPOSITES[word]}."


def opposite_follow(rng: random.Random, previous: Turn) -> Turn:
    """Asks for another opposite in a few words."""
    word = rng.choice([name for name in OPPOSITES if name != previous.memo[0]])
    user, number = ask(rng, ("And {c}?", "And of {c}?", "What about {c}?", "{c}?", "How about {c}?"), c=word)
    return Turn("opposites", user, opposite_answer(word), f"follow|{word}|{number}", (word,))


def animal_fact(rng: random.Random) -> Turn:
    """A young animal's name, an animal's sound or its legs."""
    table, templates, form = rng.choice(
        (
            (YOUNG, _YOUNG, "A baby {a} is called a {v}."),
            (SOUNDS, _SOUND, "A {a} says {v}."),
            (LEGS, _LEGS, "A {a} has {v} legs."),
        )
    )
    animal = rng.choice(list(table))
    user, number = ask(rng, templates, a=animal)
    text, question = form.format(a=animal, v=table[animal]), templates[number].format(a=animal)
    return Turn("facts", _an(user), _an(text), f"{question}")


def _an(text: str) -> str:
    """Repairs the article before a vowel."""
    for animal in ("ant", "owl", "elephant", "owlet"):
        text = text.replace(f"a {animal}", f"an {animal}").replace(f"A {animal}", f"An {animal}")
    return text


def calendar(rng: random.Random) -> Turn:
    """The day or month after or before another."""
    names, unit = (DAYS, "day") if rng.random() < 0.5 else (MONTHS, "month")
    place = rng.randrange(len(names))
    step = 1 if rng.random() < 0.65 else -1
    user, number = ask(rng, _NEXT if step == 1 else _BACK, u=unit, x=names[place])
    answer = f"{names[(place + step) % len(names)]} comes {'after' if step == 1 else 'before'} {names[place]}."
    return Turn("facts", user, answer, f"{names[place]}|{step}|{number}")


def fact(rng: random.Random) -> Turn:
    """An animal fact or a calendar fact."""
    return animal_fact(rng) if rng.random() < 0.55 else calendar(rng)


MAKERS: dict[str, Maker] = {"capitals": capital, "opposites": opposite, "facts": fact}
