"""The gate by itself: what it tries, what it decides and for how long."""

from moe_mlx.drafting.gate import FIRST_HOLD, LONGEST_HOLD, TRIAL, Gate, Verdict


def trial(gate: Gate, plain: int, drafted: int) -> None:
    """Goes through one trial, with so many bytes a token."""
    for drafting, tokens in TRIAL:
        assert (gate.drafting, gate.left) == (drafting, tokens)
        gate.took(tokens, tokens * (drafted if drafting else plain))


def held(gate: Gate) -> int:
    """Goes through what was decided and returns how many tokens it held."""
    tokens = gate.left
    gate.took(tokens, 10**9)  # what a phase costs that is no trial changes nothing
    return tokens


def test_drafts_that_cost_more_are_turned_off_and_tried_again():
    gate = Gate()
    trial(gate, plain=10, drafted=11)
    assert not gate.open and not gate.drafting and gate.verdict == Verdict(11.0, 10.0)
    assert held(gate) == FIRST_HOLD
    trial(gate, plain=10, drafted=9)
    assert gate.open and gate.drafting and gate.trials == 2


def test_as_many_bytes_are_no_reason_to_stop():
    gate = Gate()
    trial(gate, plain=0, drafted=0)  # every expert has a slot
    assert gate.open and gate.drafting


def test_a_decision_that_is_confirmed_holds_longer_and_one_that_is_not_holds_as_at_first():
    gate = Gate()
    found = []
    for _ in range(6):
        trial(gate, plain=10, drafted=20)
        found.append(held(gate))
    assert found == [min(FIRST_HOLD * 2**n, LONGEST_HOLD) for n in range(6)]
    trial(gate, plain=10, drafted=5)
    assert held(gate) == FIRST_HOLD


def test_a_phase_goes_on_in_the_next_answer_and_may_run_over():
    gate = Gate()
    gate.took(3, 30)
    assert (gate.drafting, gate.left) == (False, 5)
    gate.took(5, 50)
    gate.took(18, 18 * 9)  # rounds do not end where a phase does
    gate.took(8, 80)
    assert gate.verdict == Verdict(9.0, 10.0) and gate.open
