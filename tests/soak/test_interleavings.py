"""Whatever is done to a model in whatever order, and whatever befalls it meanwhile: slots are sound, answers exact."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.soak.ordeal import DEEDS, FAULTS, FAULTS_IN_PLACE, Ordeal, Setup
from tests.soak.subject import Subject

History = tuple[Setup, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject.make("qwen3_moe", tmp_path_factory.mktemp("subject"))


@st.composite
def histories(draw: st.DrawFn) -> tuple[Setup, list[tuple[str, str]]]:
    in_place = draw(st.booleans())
    setup = Setup(
        in_place,
        draw(st.sampled_from(["auto", "readback"])),
        draw(st.sampled_from(["cached", "direct"])),
        draw(st.sampled_from(["off", "on"])),
        draw(st.sampled_from(["lru", "lfu"])),
    )
    turn = st.tuples(st.sampled_from(DEEDS), st.sampled_from(FAULTS_IN_PLACE if in_place else FAULTS))
    return setup, draw(st.lists(turn, min_size=1, max_size=8))


@settings(max_examples=2, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(histories(), st.integers(0, 1 << 16))
def test_any_order_of_deeds_and_faults(subject: Subject, history: History, seed: int):
    endure(subject, history, seed)


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(histories(), st.integers(0, 1 << 16))
def test_many_orders_of_deeds_and_faults(subject: Subject, history: History, seed: int):
    endure(subject, history, seed)


def endure(subject: Subject, history: History, seed: int) -> None:
    setup, turns = history
    ordeal = Ordeal(subject, setup, Random(seed))
    try:
        for deed, fault in turns:
            ordeal.turn(deed, fault)
    finally:
        ordeal.close()
    assert ordeal.counts["answers compared"] == len(turns)
