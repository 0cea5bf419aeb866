"""Names, animals, places, things and other words that several skills share."""

from __future__ import annotations

import random

from .texts import phrases, words

HE_NAMES = words(
    "Pip Tom Max Leo Finn Otto Hugo Felix Oscar Theo Milo Jasper Rufus Bruno Archie Toby Ned Gus Sam Ben Jack "
    "Oliver Henry Charlie Barnaby Monty Ziggy Bertie Rocky Simon Peter Paul David Daniel Adam Noah Liam Lucas "
    "Marco Diego Ivan Karl Omar Ali Ravi Kenji"
)
SHE_NAMES = words(
    "Luna Mia Lily Daisy Ruby Bella Rosie Poppy Ivy Hazel Willow Nora Clara Ella Zoe Ada Maya Molly Tilly Penny "
    "Olive Violet Iris Flora Pearl Stella Nina Anna Emma Sara Alice Lucy Grace Sophie Julia Maria Elena Laura Eva "
    "Kim Mei Yuki Leila Aisha Priya Ingrid"
)
NAMES = HE_NAMES + SHE_NAMES

ANIMALS = words(
    "fox cat dog mouse rabbit bear owl hedgehog squirrel badger wolf deer frog turtle duck goose swan crow robin "
    "sparrow penguin seal whale dolphin otter beaver horse pony donkey cow pig sheep goat lamb chicken rooster "
    "lion tiger elephant giraffe zebra monkey panda koala kangaroo camel bee ant spider snail butterfly dragon "
    "unicorn parrot hamster puppy kitten bat mole lizard crab fish bird eagle"
)

MEN = words("boy prince wizard pirate knight king robot dinosaur giant astronaut")
WOMEN = words("girl princess queen fairy witch mermaid pirate astronaut")

THINGS = words(
    "lantern map key boat kite drum book bell ball hat scarf coat cup clock compass basket blanket bottle box "
    "bridge broom bucket candle cake pie apple acorn shell stone feather flower seed star button coin crown ring "
    "mirror ladder rope spoon teapot umbrella violin flute guitar piano wagon bicycle train balloon letter "
    "painting puzzle pillow lamp ribbon necklace telescope wheel window door chair table carrot pumpkin cookie "
    "honey sandwich pizza rocket robot treasure sword hammer pencil camera radio guitar shoe boot jacket whistle "
    "snowflake"
)

PLACES = phrases(
    "forest|garden|village|mountain|river|lake|beach|meadow|castle|farm|city|island|cave|valley|desert|jungle|"
    "library|market|school|harbour|barn|park|hill|swamp|tower|kitchen|orchard|bakery|museum|lighthouse"
)
_ON = {"beach", "mountain", "farm", "island", "hill"}
_BY = {"river", "lake", "lighthouse"}

COLOURS = words("red blue green yellow black white brown orange purple pink grey silver gold")
FRUITS = words(
    "apple banana cherry date fig grape kiwi lemon mango orange peach pear plum melon lime apricot berry coconut "
    "olive papaya"
)
FOODS = words(
    "bread cheese milk butter rice soup pasta salad egg honey jam cake pie pizza noodles beans corn tea coffee "
    "juice water sugar salt"
)
TRAITS = words(
    "little brave shy clever curious kind sleepy happy young old quiet cheerful tiny gentle lonely hungry funny careful"
)
LOOKS = words("golden shiny old tiny red blue silver broken beautiful dusty bright green wooden little strange lovely")
EXTRA = words(
    "house tree river ocean cloud rain snow wind sun moon night morning winter summer spring autumn school teacher "
    "friend family mother father sister brother baby doctor farmer baker king queen knight wizard garden street "
    "road bridge tower paper pen desk floor wall roof yard gate music song dance game story picture number letter "
    "word name face hand foot head eye ear nose mouth tooth arm leg knee finger heart hair shirt dress sock glove "
    "belt pocket bag cup plate knife fork bowl oven fire ice stone sand grass leaf root branch forest hill field "
    "world earth planet space rocket engine car bus plane ship truck wheel road market shop money price gift party "
    "birthday holiday week month year hour minute second question answer problem idea dream secret magic monster "
    "giant fairy pirate princess prince happy hello strawberry computer banana elephant language mississippi "
    "keyboard butterfly chocolate rainbow sunshine mountain because people through"
)

LIST_GROUPS = (ANIMALS, THINGS, FRUITS, COLOURS, FOODS, EXTRA)
VOCABULARY = sorted({*ANIMALS, *THINGS, *PLACES, *COLOURS, *FRUITS, *FOODS, *TRAITS, *LOOKS, *EXTRA})

_ONSETS = words("b bl br c ch cl d dr f fl fr g gl gr h j k l m n p pl pr qu r s sh sl sn sp st t th tr v w y z")
_VOWELS = words("a e i o u a e i o ee oo ai ou")
_CODAS = [
    "",
    "b",
    "ck",
    "d",
    "ff",
    "g",
    "l",
    "ll",
    "m",
    "n",
    "nd",
    "ng",
    "nt",
    "p",
    "r",
    "rk",
    "s",
    "ss",
    "st",
    "t",
    "x",
    "z",
]


def invented_word(rng: random.Random, syllables: int | None = None) -> str:
    """Makes up a pronounceable word, so that copying and spelling do not rest on known words only."""
    count = syllables or rng.choice((1, 1, 2, 2, 2, 3))
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(count)]
    return "".join(parts) + rng.choice(_CODAS)


def any_name(rng: random.Random) -> tuple[str, bool]:
    """Picks a name, sometimes an invented one; the flag says whether "he" fits."""
    if rng.random() < 0.25:
        return invented_word(rng, rng.choice((1, 2, 2))).capitalize(), rng.random() < 0.5
    he = rng.random() < 0.5
    return rng.choice(HE_NAMES if he else SHE_NAMES), he


def any_word(rng: random.Random) -> str:
    """Picks a word to spell or to turn round: mostly a known one, sometimes invented."""
    word = invented_word(rng) if rng.random() < 0.35 else rng.choice(VOCABULARY)
    return word.capitalize() if rng.random() < 0.06 else rng.choice(NAMES) if rng.random() < 0.04 else word


def at_place(place: str) -> str:
    """Adds the preposition that a place takes: "in the forest", "on the beach"."""
    word = "on" if place in _ON else "by" if place in _BY else "in"
    return f"{word} the {place}"


def some_items(rng: random.Random, low: int = 3, high: int = 5, *, distinct_initials: bool = False) -> list[str]:
    """Picks different words for a list, from one group or from all of them.

    Args:
        rng: Source of randomness.
        low: Fewest words.
        high: Most words.
        distinct_initials: Whether no two words may start with the same letter.
    """
    roll = rng.random()
    pool = NAMES if roll < 0.12 else rng.choice(LIST_GROUPS) if roll < 0.6 else VOCABULARY
    wanted, chosen, initials = rng.randint(low, high), [], set[str]()
    for word in (
        rng.sample(sorted(set(pool)), k=len(set(pool))) if len(pool) < 60 else (rng.choice(pool) for _ in range(200))
    ):
        if word in chosen or (distinct_initials and word[0].lower() in initials):
            continue
        chosen.append(word)
        initials.add(word[0].lower())
        if len(chosen) == wanted:
            break
    return chosen
