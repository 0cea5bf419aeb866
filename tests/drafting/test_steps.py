"""Answers with drafts against the same without: tokens, logprobs' finish, caches and counts, whatever the sampling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import speculative_generate_step

from moe_mlx.conversation.session import KVCacheSettings, Session
from moe_mlx.drafting.drafting import logits_only
from moe_mlx.errors import UsageError
from moe_mlx.store.demo import demo_path

Opened = Callable[..., Session]
STORY = "Tell me a story about a fox."
TURNS = (STORY, "What is the capital of Italy?", "Write a letter to a friend.")


def talk(session: Session, turns: tuple[str, ...] = TURNS) -> list[Any]:
    """Answers of one conversation, each turn on top of those before."""
    messages: list[Any] = []
    answers = []
    for text in turns:
        messages.append({"role": "user", "content": text})
        for _ in session.answer(session.encode(messages)):
            pass
        assert session.last is not None
        messages.append(session.last.message)
        answers.append(session.last)
    return answers


@pytest.mark.slow
def test_a_conversation_is_the_same_with_drafts(session: Opened, shallow: Path):
    plain, drafted = talk(session(None)), talk(session(shallow))
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    # What is kept of the cache between turns is as much, or rejected drafts would have been left in it.
    assert [one.reused_tokens for one in drafted] == [one.reused_tokens for one in plain]
    counts = [one.receipt.drafts.counts for one in drafted]
    assert sum(one.drafted for one in counts) > sum(one.accepted for one in counts) > 0
    for one, other in zip(drafted, plain, strict=True):
        assert one.receipt.tokens == len(one.tokens) == other.receipt.tokens
        assert one.prefill.tokens == other.prefill.tokens  # verifying is no prompt


def test_a_model_that_drafts_for_itself_is_always_right(session: Opened):
    drafted = session(demo_path(), count=4)
    (answer,) = talk(drafted, (STORY,))
    counts = answer.receipt.drafts.counts
    assert counts.accepted == counts.drafted > 0 and answer.decode.steps < len(answer.tokens)
    assert answer.tokens == talk(session(None), (STORY,))[0].tokens


def test_the_tokens_are_those_of_mlx_lm_s_own_speculative_loop(session: Opened, shallow: Path):
    model, tokenizer = mlx_lm.load(str(demo_path()))[:2]
    capped = session(shallow)
    prompt = capped.encode([{"role": "user", "content": STORY}])
    theirs = []
    for token, *_ in speculative_generate_step(
        mx.array(prompt), model, mlx_lm.load(str(shallow))[0], num_draft_tokens=3, max_tokens=32
    ):
        theirs.append(token)
        if token in tokenizer.eos_token_ids:
            break
    assert list(talk(capped, (STORY,))[0].tokens) == theirs


@pytest.mark.parametrize(
    "sampling",
    [
        {"temp": 0.8, "seed": 3},
        pytest.param({"temp": 0.6, "top_p": 0.9, "seed": 4}, marks=pytest.mark.slow),
        pytest.param({"repetition_penalty": 1.3}, marks=pytest.mark.slow),
        pytest.param({"max_tokens": 41}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_seed_and_a_penalty_give_the_same_answer(session: Opened, shallow: Path, sampling: dict[str, Any]):
    plain, drafted = talk(session(None, **sampling), TURNS[::2]), talk(session(shallow, **sampling), TURNS[::2])
    assert [one.tokens for one in drafted] == [one.tokens for one in plain]
    assert sum(one.receipt.drafts.counts.accepted for one in drafted) > 0


def test_a_cache_is_quantised_between_the_same_tokens(session: Opened, shallow: Path):
    start, found, rounds = 26, [], []
    for draft in (None, shallow):
        one = session(draft, max_tokens=24)
        one.caching = KVCacheSettings(kv_bits=8, kv_group_size=32, quantized_kv_start=start)
        if one.drafting is not None:

            def call(model: Any, tokens: mx.array, cache: list[Any]) -> tuple[mx.array, None]:
                rounds.append((cache[0].offset, cache[0].offset + tokens.shape[1]))
                return logits_only(model, tokens, cache)

            one.drafting.call = call
        found.append(talk(one, (STORY,))[0].tokens)
    assert found[0] == found[1]
    # Without drafts a step of one row reaches the place, and the next one finds the cache quantised.
    crossing = [(begin, end) for begin, end in rounds if begin < start <= end]
    assert crossing == [(start - 1, start)] and any(end - begin > 1 for begin, end in rounds if begin >= start)


def test_left_in_the_midst_of_a_round_the_cache_ends_with_the_last_token(session: Opened):
    one, plain = session(demo_path(), count=4, max_tokens=18), session(None, max_tokens=18)
    prompt = one.encode([{"role": "user", "content": STORY}])
    for stop_at in (12, 13, 14):  # of a round's five tokens the first, and those after it
        one.forget()
        for number, _ in enumerate(one.answer(prompt), 1):
            if number == stop_at:
                break
        assert one.held_tokens == len(prompt) + stop_at
        assert one._prompt_cache is not None and one._prompt_cache[0].offset == one.held_tokens
    more = [{"role": "user", "content": STORY}, {"role": "user", "content": "Go on."}]
    for either in (one, plain):
        for _ in either.answer(either.encode(more)):
            pass
    assert one.last is not None and plain.last is not None and one.last.tokens == plain.last.tokens


def test_verified_in_the_graph_it_counts_the_same(session: Opened, shallow: Path):
    from moe_mlx.native import build
    from moe_mlx.native.toolchain import NativeUnavailableError

    try:
        build.load_native(print)
    except NativeUnavailableError as error:
        pytest.skip(f"no in-graph decode here: {error}")
    found = []
    for way in ("readback", "native"):
        for cap in ("50%", "37.5%"):  # four rows of four experts have slots together in 16, not in 12
            answer = talk(session(shallow, way=way, cap=cap, max_tokens=18), (STORY,))[0]
            counts = answer.receipt.as_dict()
            names = ("tokens", "hits", "misses", "bytes_read", "drafts")
            found.append((cap, answer.tokens, [counts[name] for name in names], answer.decode.read_backs))
    assert [one[:3] for one in found[:2]] == [one[:3] for one in found[2:]]
    assert found[2][3] == 0 < found[3][3]


def test_drafts_are_refused_where_routing_is_not_exact(session: Opened, shallow: Path):
    one = session(shallow)
    one.runtime.set_routing(routing="cache-prior")
    with pytest.raises(UsageError, match="verified with exact routing"):
        talk(one, (STORY,))
    one.runtime.set_routing(routing="exact")
    assert talk(one, (STORY,))[0].tokens


@pytest.mark.slow
def test_the_gate_closes_where_rejected_rows_cost_more_than_they_save(session: Opened, shallow: Path):
    one = session(shallow, cap="37.5%", max_tokens=48)
    answer = talk(one, (STORY,))[0]
    assert one.drafting is not None
    gate, counts = one.drafting.gate, answer.receipt.drafts.counts
    assert gate.verdict is not None and gate.verdict.drafted > gate.verdict.plain and not gate.open
    assert counts.drafted < 40 < len(answer.tokens)  # none after the trial of 32 tokens
    assert "drafts are off" in answer.receipt.describe() and answer.receipt.as_dict()["drafts"]["gate"] == "closed"
    again = talk(session(shallow, cap="37.5%", max_tokens=48), (STORY,))[0]
    assert again.receipt.as_dict()["drafts"] == answer.receipt.as_dict()["drafts"]
