"""The generator of the demo model's text: right answers, a clean split, the same text for the same seed."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable

import pytest
from demo_data import (
    EXACT_SKILLS,
    Turn,
    arithmetic,
    asides,
    corpus,
    dialogues,
    facts,
    general,
    heldout_documents,
    heldout_prompts,
    is_heldout,
    json_objects,
    languages,
    letters,
    lists,
    normalise,
    render,
    smalltalk,
    stories,
    training_documents,
)
from demo_data.story_check import check_story

Maker = Callable[[random.Random], Turn]


@pytest.fixture
def few_heldout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four held-out prompts a skill instead of all, which take seconds to find each time."""
    monkeypatch.setattr(corpus, "heldout_prompts", lambda: heldout_prompts(per_skill=4))


def many(maker: Maker, count: int = 150, seed: int = 1) -> list[Turn]:
    rng = random.Random(seed)
    return [maker(rng) for _ in range(count)]


@pytest.mark.parametrize("wanted", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_every_skill_has_as_many_different_heldout_prompts(wanted: int) -> None:
    heldout = heldout_prompts(per_skill=wanted)
    for skill in EXACT_SKILLS:
        assert len({normalise(turn.user) for turn in heldout if turn.skill == skill}) == wanted
    assert all(turn.exact and is_heldout(turn) for turn in heldout)


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_heldout_prompt_is_ever_trained_on(few: bool, request: pytest.FixtureRequest) -> None:
    if few:
        request.getfixturevalue("few_heldout")
    forbidden = {normalise(turn.user) for turn in corpus.heldout_prompts()}
    for document in itertools.islice(training_documents(seed=3), 150 if few else 2500):
        for piece in document:
            if not piece.said:
                for prompt in re.findall(r"<\|user\|>(.*?)<\|end\|>", piece.text):
                    assert normalise(prompt) not in forbidden


@pytest.mark.parametrize("maker", [maker for maker, _, _ in dialogues.WEIGHTED])
def test_both_sides_of_the_split_share_no_content(maker: Maker) -> None:
    turns = many(maker, 400)
    kept = {(turn.skill, turn.key) for turn in turns if not is_heldout(turn)}
    assert not kept & {(turn.skill, turn.key) for turn in turns if is_heldout(turn)}


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_text(few: bool, request: pytest.FixtureRequest) -> None:
    if few:
        request.getfixturevalue("few_heldout")
    documents = 15 if few else 60

    def text(seed: int) -> str:
        written = itertools.islice(training_documents(seed), documents)
        return "".join(piece.text for document in written for piece in document)

    assert text(5) == text(5)
    assert text(5) != text(6)
    assert heldout_documents(documents, 5) == heldout_documents(documents, 5)


def test_sums_are_right() -> None:
    for turn in many(arithmetic.make_sum, 400) + many(arithmetic.make_three):
        *steps, result = turn.answer.split(" = ")
        assert all(eval(step) == int(result) for step in steps)
        if typed := re.search(r"(\d+) ?([-+*x×]) ?(\d+)(?!\d| ?\+)", turn.user):
            left, sign, right = typed.groups()
            if "+" not in turn.user[: typed.start()]:
                assert steps[0].replace(" ", "") == left + {"x": "*", "×": "*"}.get(sign, sign) + right


def test_word_problems_comparisons_and_parity_are_right() -> None:
    for turn in many(arithmetic.make_problem):
        a, b = map(int, re.findall(r"\d+", turn.user))
        assert turn.answer.endswith(f"= {a - b if re.search('gives|lost', turn.user) else a + b}")
    for turn in many(arithmetic.make_compare):
        numbers = [int(number) for number in re.findall(r"\d+", turn.user)]
        big = re.search("bigger|larger|greater", turn.user, re.IGNORECASE)
        assert int(turn.answer.split()[0]) == (max(numbers) if big else min(numbers))
    for turn in many(arithmetic.make_parity):
        value, _, word = turn.answer.split()
        assert word == ("even", "odd")[int(value) % 2]
        assert value in turn.user


def test_lists_are_right() -> None:
    for turn in many(lists.sort_list):
        items = turn.answer.split(", ")
        assert sorted(items) == sorted(turn.memo)
        order = [int(item) for item in items] if items[0].isdigit() else items
        assert order in (sorted(order), sorted(order, reverse=True))
    assert all(turn.answer.split(", ")[::-1] == list(turn.memo) for turn in many(lists.reverse_list))
    assert all(turn.answer == f"There are {len(turn.memo)}." for turn in many(lists.count_list))
    for turn in many(lists.count_up):
        values = [int(value) for value in turn.answer.split(", ")]
        assert len({after - before for before, after in itertools.pairwise(values)}) == 1


def test_letters_are_right() -> None:
    for maker in (letters.spell, letters.reverse_word, letters.length, letters.find, letters.ends):
        for turn in many(maker):
            (word,) = turn.memo
            assert word.lower() in turn.user.lower()
            assert turn.answer.split()[0].replace("-", "") == word
            if maker is letters.reverse_word:
                assert turn.answer.split()[-1].replace("-", "") == "".join(reversed(word))
            elif maker is letters.length:
                assert f"has {len(word)} letters" in turn.answer
            elif maker is letters.find:
                assert int(turn.answer.split()[-1]) == word.count(turn.key.split("|")[1])
            elif maker is letters.ends:
                assert turn.answer.endswith((f" starts with {word[0]}.", f" ends with {word[-1]}."))


def test_json_is_json_with_the_values_of_the_prompt() -> None:
    for maker in (json_objects.make_object, json_objects.make_array, json_objects.from_sentence):
        for turn in many(maker):
            value = json.loads(turn.answer)
            parts = value if isinstance(value, list) else value.values()
            assert all(str(part) in turn.user for part in parts)
    for turn in many(json_objects.read_value):
        shown = json.loads(turn.user[turn.user.index("{") : turn.user.index("}") + 1])
        _, name, _, value = turn.answer.rstrip(".").split(maxsplit=3)
        assert str(shown[name]) == value


def test_facts_and_words_agree_with_their_tables() -> None:
    assert facts.capital_answer("France") == "The capital of France is Paris."
    assert languages.answer("dog", "German") == "Dog in German is Hund."
    assert facts.OPPOSITES["hot"] == "cold"
    assert facts.OPPOSITES["cold"] == "hot"
    for turn in many(languages.several):
        words, language = turn.key.split("|")[1:-1], turn.key.split("|")[-1]
        assert turn.answer == ", ".join(languages.LEXICON[word][language] for word in words)
    for turn in many(facts.calendar):
        names = facts.DAYS if turn.answer.split()[0] in facts.DAYS else facts.MONTHS
        first, _, relation, second = turn.answer.rstrip(".").split()
        assert (names.index(first) - names.index(second)) % len(names) == (1 if relation == "after" else len(names) - 1)


def test_stories_keep_to_their_prompts() -> None:
    for turn in many(stories.make, 60):
        name, animal, thing, place, *_ = turn.memo
        cast = {"name": name, "animal": animal, "thing": thing, "place": place.split()[-1]}
        report = check_story(turn.answer, turn.user, cast)
        assert report.well_formed and report.steady and report.true_to_prompt, turn


def test_the_story_check_notices_damage() -> None:
    turn = many(stories.make, 1)[0]
    cast = {"name": turn.memo[0], "animal": turn.memo[1], "thing": turn.memo[2], "place": turn.memo[3].split()[-1]}
    sentences = turn.answer.split(". ")
    assert not check_story(". ".join(sentences[:-1]), turn.user, cast).well_formed
    assert not check_story(turn.answer.replace(turn.memo[0], "Zed", 1), turn.user, cast).well_formed
    assert not check_story("Once there was nothing.", f"A story about {turn.memo[0]}", cast).true_to_prompt


def test_other_turns_are_whole() -> None:
    for maker in (smalltalk.make, general.make, asides.make):
        for turn in many(maker, 300):
            assert turn.user and turn.answer and not turn.exact
            assert not re.search(r"[{}]\w", turn.user + turn.answer)


def test_dialogues_have_the_wanted_length_and_markup() -> None:
    rng = random.Random(2)
    for length in (1, 2, 5, 9):
        text = render(dialogues.dialogue(rng, length), system="Be kind.")
        assert text.count("<|user|>") == text.count("<|assistant|>") == length
        assert text.startswith("<|system|>Be kind.<|end|>") and text.endswith("<|end|>")
        assert "\n\n" not in text
