"""Single words and short lists of words in French, Spanish and German."""

from __future__ import annotations

import random

from .texts import phrases
from .turns import Turn, ask

SKILL = "translation"
_ROWS = """cat chat gato Katze|dog chien perro Hund|bird oiseau pájaro Vogel|fish poisson pez Fisch
horse cheval caballo Pferd|cow vache vaca Kuh|mouse souris ratón Maus|bear ours oso Bär|wolf loup lobo Wolf
house maison casa Haus|tree arbre árbol Baum|flower fleur flor Blume|water eau agua Wasser|fire feu fuego Feuer
sun soleil sol Sonne|moon lune luna Mond|star étoile estrella Stern|sky ciel cielo Himmel|sea mer mar Meer
river rivière río Fluss|mountain montagne montaña Berg|forest forêt bosque Wald|garden jardin jardín Garten
city ville ciudad Stadt|street rue calle Straße|door porte puerta Tür|window fenêtre ventana Fenster
table table mesa Tisch|chair chaise silla Stuhl|bed lit cama Bett|book livre libro Buch
letter lettre carta Brief|key clé llave Schlüssel|clock horloge reloj Uhr|ship bateau barco Schiff
car voiture coche Auto|bread pain pan Brot|milk lait leche Milch|cheese fromage queso Käse
apple pomme manzana Apfel|egg œuf huevo Ei|sugar sucre azúcar Zucker|salt sel sal Salz|wine vin vino Wein
coffee café café Kaffee|tea thé té Tee|meat viande carne Fleisch|soup soupe sopa Suppe|man homme hombre Mann
woman femme mujer Frau|child enfant niño Kind|mother mère madre Mutter|father père padre Vater
brother frère hermano Bruder|sister sœur hermana Schwester|friend ami amigo Freund|king roi rey König
queen reine reina Königin|hand main mano Hand|head tête cabeza Kopf|eye œil ojo Auge|heart cœur corazón Herz
foot pied pie Fuß|day jour día Tag|night nuit noche Nacht|morning matin mañana Morgen|year an año Jahr
summer été verano Sommer|winter hiver invierno Winter|rain pluie lluvia Regen|snow neige nieve Schnee
wind vent viento Wind|red rouge rojo rot|blue bleu azul blau|green vert verde grün|yellow jaune amarillo gelb
black noir negro schwarz|white blanc blanco weiß|big grand grande groß|small petit pequeño klein
good bon bueno gut|new nouveau nuevo neu|old vieux viejo alt|beautiful beau hermoso schön
hot chaud caliente heiß|cold froid frío kalt|hello bonjour hola hallo|goodbye au_revoir adiós auf_Wiedersehen
thank_you merci gracias danke|yes oui sí ja|no non no nein|please s'il_vous_plaît por_favor bitte
love amour amor Liebe|school école escuela Schule|music musique música Musik|time temps tiempo Zeit
one un uno eins|two deux dos zwei|three trois tres drei|four quatre cuatro vier|five cinq cinco fünf
six six seis sechs|seven sept siete sieben|eight huit ocho acht|nine neuf nueve neun|ten dix diez zehn"""
LANGUAGES = ("French", "Spanish", "German")
LEXICON: dict[str, dict[str, str]] = {}
for _row in _ROWS.replace("\n", "|").split("|"):
    _english, *_others = (cell.replace("_", " ") for cell in _row.split())
    LEXICON[_english] = dict(zip(LANGUAGES, _others, strict=True))
_PHRASES = {
    "good morning": "bonjour|buenos días|guten Morgen",
    "good night": "bonne nuit|buenas noches|gute Nacht",
    "how are you": "comment ça va|cómo estás|wie geht es dir",
    "I love you": "je t'aime|te quiero|ich liebe dich",
    "see you soon": "à bientôt|hasta pronto|bis bald",
    "good evening": "bonsoir|buenas tardes|guten Abend",
}
for _english, _cells in _PHRASES.items():
    LEXICON[_english] = dict(zip(LANGUAGES, _cells.split("|"), strict=True))

_TO = phrases(
    "How do you say {w} in {l}?|What is {w} in {l}?|Translate {w} into {l}.|Translate {w} to {l}.|{w} in {l}?|What "
    "is the {l} word for {w}?|How do I say {w} in {l}?|Say {w} in {l}.|What's {w} in {l}?|What is the {l} for {w}?|"
    "Give me the {l} word for {w}.|In {l}, what is {w}?|Translate the word {w} into {l}.|Tell me the {l} word for "
    "{w}."
)
_QUOTED = phrases(
    'How do you say "{w}" in {l}?|Translate "{w}" into {l}.|What is \'{w}\' in {l}?|What is "{w}" in {l}?|'
    "Translate to {l}: {w}|Translate into {l}: {w}"
)
_BACK = phrases(
    "What does {w} mean in English?|What does the {l} word {w} mean?|Translate {w} from {l} into English.|What is "
    '{w} in English?|What is the English for {w}?|What does "{w}" mean?'
)
_MANY = phrases(
    "Translate these words into {l}: {w}.|Translate {w} into {l}.|How do you say {w} in {l}?|Say these words in "
    "{l}: {w}.|Put {w} into {l}.|Translate to {l}: {w}."
)


def worded_twice(turn: Turn) -> bool:
    """Whether the prompt is a wording that exists with and without quotes, so that it has two keys."""
    number = turn.key.rpartition("|")[2]
    return (
        turn.skill == SKILL
        and not turn.key.startswith("back")
        and number in ("0", "1", "2", "100", "101", "102", "103")
    )


def answer(word: str, language: str) -> str:
    """The one way a translation is told."""
    return f"{word[0].upper()}{word[1:]} in {language} is {LEXICON[word][language]}."


def one_word(rng: random.Random) -> Turn:
    """A word of English into one of the languages."""
    word, language = rng.choice(list(LEXICON)), rng.choice(LANGUAGES)
    quoted = rng.random() < 0.25
    user, number = ask(rng, _QUOTED if quoted else _TO, w=word, l=language)
    return Turn(SKILL, user, answer(word, language), f"{word}|{language}|{number + 100 * quoted}", (word, language))


def back(rng: random.Random) -> Turn:
    """A foreign word into English, if only one word of English fits it."""
    while True:
        word, language = rng.choice(list(LEXICON)), rng.choice(LANGUAGES)
        foreign = LEXICON[word][language]
        meanings = {
            english for english, row in LEXICON.items() if foreign.lower() in (cell.lower() for cell in row.values())
        }
        if meanings == {word} and foreign.lower() not in (name.lower() for name in LEXICON):
            break
    user, number = ask(rng, _BACK, w=foreign, l=language)
    return Turn(
        SKILL,
        user,
        f"{foreign[0].upper()}{foreign[1:]} means {word} in English.",
        f"back|{word}|{language}|{number}",
        (word, language),
    )


def several(rng: random.Random) -> Turn:
    """Two to four words at once."""
    words, language = rng.sample(list(LEXICON)[: -len(_PHRASES)], k=rng.randint(2, 4)), rng.choice(LANGUAGES)
    listed = ", ".join(words[:-1]) + f" and {words[-1]}" if rng.random() < 0.5 else ", ".join(words)
    user, _ = ask(rng, _MANY, w=listed, l=language)
    return Turn(
        SKILL,
        user,
        ", ".join(LEXICON[word][language] for word in words),
        f"several|{'|'.join(words)}|{language}",
        (words[0], language),
    )


def make(rng: random.Random) -> Turn:
    """Any translation turn."""
    roll = rng.random()
    return one_word(rng) if roll < 0.5 else back(rng) if roll < 0.65 else several(rng)


def follow(rng: random.Random, previous: Turn) -> Turn:
    """Asks for the same word in another language, or another word in the same one."""
    word, language = previous.memo
    if rng.random() < 0.6 and not previous.key.startswith("several"):
        language = rng.choice([name for name in LANGUAGES if name != language])
        templates: tuple[str, ...] = phrases(
            "And in {l}?|In {l}?|And {l}?|What about {l}?|And what is it in {l}?|How about in {l}?|Now in {l}."
        )
    else:
        word = rng.choice([name for name in LEXICON if name != word])
        templates = ("And {w}?", "What about {w}?", "And the word {w}?", "{w}?", "How about {w}?")
    user, number = ask(rng, templates, w=word, l=language)
    return Turn(SKILL, user, answer(word, language), f"follow|{word}|{language}|{number}", (word, language))
