"""A few questions about the world, and polite answers to everything that the model cannot do."""

from __future__ import annotations

import random

from .smalltalk_lines import CAN_DO
from .texts import phrases
from .turns import Turn, roughen
from .words import VOCABULARY, any_name, invented_word

_KNOWN: tuple[tuple[str, str], ...] = (
    (
        "Why is the sky blue?|What makes the sky blue?|Why does the sky look blue?",
        "Air scatters the blue part of sunlight more than the red part, so the sky looks blue.",
    ),
    ("What is the sun?|What's the sun?|Is the sun a star?", "The sun is a star. It gives us light and warmth."),
    ("What is the moon?|What's the moon?", "The moon is a ball of rock that goes around the earth."),
    ("What is water?|What is water made of?", "Water is made of hydrogen and oxygen. We drink it every day."),
    (
        "Why does it rain?|Where does rain come from?|What is rain?",
        "Water rises from the sea, forms clouds, and falls down as rain.",
    ),
    (
        "How do bees make honey?|Where does honey come from?|What do bees make?",
        "Bees collect nectar from flowers and turn it into honey.",
    ),
    ("What colour is the sky?|What color is the sky?", "The sky is blue on a clear day."),
    ("What colour is grass?|What color is grass?", "Grass is green."),
    ("What colour is snow?|What color is snow?", "Snow is white."),
    ("How many days are in a week?|How many days does a week have?", "A week has 7 days."),
    ("How many months are in a year?|How many months does a year have?", "A year has 12 months."),
    ("How many hours are in a day?|How many hours does a day have?", "A day has 24 hours."),
    ("How many minutes are in an hour?|How many minutes does an hour have?", "An hour has 60 minutes."),
    ("How many days are in a year?|How many days does a year have?", "A year has 365 days."),
    (
        "What is the biggest animal?|Which animal is the largest?|What is the largest animal?",
        "The blue whale is the largest animal.",
    ),
    ("What is the fastest animal?|Which animal is the fastest?", "The cheetah is the fastest animal on land."),
    ("What is the tallest animal?|Which animal is the tallest?", "The giraffe is the tallest animal."),
    (
        "What is the highest mountain?|Which mountain is the highest?|What is the tallest mountain?",
        "Mount Everest is the highest mountain.",
    ),
    (
        "What is the largest planet?|Which planet is the biggest?|What is the biggest planet?",
        "Jupiter is the largest planet.",
    ),
    ("What do cows eat?|What does a cow eat?", "Cows eat grass."),
    ("What do rabbits eat?|What does a rabbit eat?", "Rabbits eat grass, leaves and carrots."),
    ("Where do fish live?|Where does a fish live?", "Fish live in water."),
    ("Where do penguins live?", "Penguins live in the cold south."),
    ("What is ice?|What is ice made of?", "Ice is frozen water."),
    (
        "How many seasons are there?|What are the seasons?|Name the seasons.",
        "There are four seasons: spring, summer, autumn and winter.",
    ),
    (
        "What are the days of the week?|Name the days of the week.|List the days of the week.",
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
    ),
    (
        "What are the months of the year?|Name the months.|List the months.",
        ("January, February, March, April, May, June, July, August, September, October, November, December"),
    ),
    (
        "Say the alphabet.|What is the alphabet?|List the letters of the alphabet.|Tell me the alphabet.",
        "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    ),
    ("What are the vowels?|Name the vowels.", "The vowels are a, e, i, o and u."),
    (
        "What is the meaning of life?|What is the answer to everything?",
        "Some say 42. I say: stories, sums and good friends.",
    ),
)
_OPEN = phrases(
    "Who is {p}?|Who was {p}?|What is {t}?|Explain {t}.|Tell me about {t}.|Why is {t} important?|How does {t} "
    "work?|Write an essay about {t}.|Write a poem about {t}.|Write code for {t}.|Write a Python program for {t}.|"
    "What do you think about {t}?|When did {t} begin?|Where is {t}?|How do I learn {t}?|Give me a recipe for {t}.|"
    "Who invented {t}?|What is the history of {t}?|Recommend a book about {t}.|Draw {t}.|Sing a song about {t}.|"
    "How much does {t} cost?|Compare {t} and {u}.|Summarise {t}.|Define {t}.|What is the difference between {t} "
    "and {u}?|Write an email about {t}.|Plan a trip to {p}.|Do you know {p}?|How can I buy {t}?|Is {t} good or "
    "bad?|Make a list of {t}.|Play {t} with me.|Tell me the price of {t}.|Search the web for {t}.|Who won {t}?|"
    "What happened to {p}?|Can you teach me {t}?|How do I fix {t}?|How do you make {t}?"
)
_TOPICS = phrases(
    "quantum physics|politics|the economy|football|chess|machine learning|programming|history|the stock market|"
    "climate change|space travel|medicine|electricity|evolution|black holes|gravity|the internet|computers|"
    "philosophy|art|movies|rock music|cooking|lasagna|curry|bitcoin|money|the president|the war|the Romans|ancient "
    "Egypt|photosynthesis|atoms|DNA|vaccines|vitamins|taxes|law|marriage|religion|Mars|volcanoes|earthquakes|"
    "dinosaurs|Python|Java|C++|Linux|a website|a database|neural networks|transformers|GPT|the future|time travel|"
    "the brain|dreams|fitness|yoga|football results|the world cup|the election|my homework|a calculator|the Eiffel "
    "Tower|Shakespeare|democracy|a car engine|nuclear power|solar panels|robots|fashion|love|happiness|a sorting "
    "algorithm|a game|an app"
)
_PEOPLE = phrases(
    "Albert Einstein|the president|Napoleon|Taylor Swift|Elon Musk|the king of England|Mozart|Cleopatra|Julius "
    "Caesar|Batman|Harry Potter|your boss|my neighbour|New York|Hawaii|California"
)
_SORRY = (
    "I do not know about that: I am a very small model. " + CAN_DO,
    "That is beyond me, I am only a tiny model. " + CAN_DO,
)
_BAD_LANGUAGE = phrases("Japanese|Chinese|Italian|Latin|Russian|Dutch|Polish|Arabic|Korean|Portuguese|Swedish|Greek")
_LIMITS: tuple[tuple[str, str], ...] = (
    (
        "How do you say {w} in {b}?|Translate {w} into {b}.|What is {w} in {b}?|Say {w} in {b}.|{w} in {b}?",
        "I only know French, Spanish and German, and only common words.",
    ),
    (
        "What is {a} * {c}?|What is {a} times {c}?|{a}*{c}|{a} x {c}|Multiply {a} by {c}.",
        "That product is too big for me: one of the numbers should have one digit.",
    ),
    (
        (
            "What is {d} + {c}?|{d}+{a}|What is {d} plus {a}?|{d} - {a}|What is {d} times {a}?|{d} * {a}|"
            "{a} + {d}|What is {a} plus {d}?"
        ),
        "That number is too big for me. I work with numbers up to 99.",
    ),
    (
        "What is {a} / {c}?|What is {a} divided by {c}?|Divide {a} by {c}.|{a}/{c}|What is the square root of {a}?",
        "I cannot divide. I can add, subtract and multiply small numbers.",
    ),
    ("What is the capital of {n}?|Capital of {n}?|What's the capital of {n}?", "I do not know a country called {n}."),
    ("{g}|{g} {h}|{g} {h} {i}|{g}?", "I am not sure what you mean. {can}"),
)


def known(rng: random.Random) -> Turn:
    """A question about the world that the model can answer."""
    asks, answer = rng.choice(_KNOWN)
    clean = rng.choice(asks.split("|"))
    return Turn("general", roughen(rng, clean), answer, clean, exact=False)


def unknown(rng: random.Random) -> Turn:
    """A request outside of the model's world."""
    topic = rng.choice(_TOPICS) if rng.random() < 0.8 else f"{rng.choice(VOCABULARY)} {rng.choice(VOCABULARY)}s"
    person = rng.choice(_PEOPLE) if rng.random() < 0.5 else f"{any_name(rng)[0]} {invented_word(rng, 2).capitalize()}"
    clean = rng.choice(_OPEN).format(t=topic, u=rng.choice(_TOPICS), p=person)
    return Turn("general", roughen(rng, clean), rng.choice(_SORRY), f"unknown|{clean}", exact=False)


def limit(rng: random.Random) -> Turn:
    """A request near to a skill, but past what was taught."""
    asks, answer = rng.choice(_LIMITS)
    number = rng.randint(100, 9999) if rng.random() < 0.6 else rng.randint(10**4, 10**7)
    fields = dict(
        w=rng.choice(VOCABULARY),
        b=rng.choice(_BAD_LANGUAGE),
        a=str(rng.randint(13, 99)),
        c=str(rng.randint(10, 99)),
        d=str(number),
        n=invented_word(rng, 2).capitalize(),
        g=invented_word(rng),
        h=invented_word(rng),
        i=invented_word(rng),
        can=CAN_DO,
    )
    clean = rng.choice(asks.split("|")).format(**fields)
    return Turn(
        "general", roughen(rng, clean, fold="{n}" not in answer), answer.format(**fields), f"limit|{clean}", exact=False
    )


def make(rng: random.Random) -> Turn:
    """Any question outside of the other skills."""
    roll = rng.random()
    return known(rng) if roll < 0.4 else unknown(rng) if roll < 0.7 else limit(rng)
