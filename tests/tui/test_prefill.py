"""Follow-up turns prefill what is new, not the conversation: counted, not timed."""

import pytest

from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.loading.loader import load


@pytest.fixture
def session(tiny):
    model, tokenizer = load(tiny, expert_cache="50%", say=lambda line: None)
    session = Session(model, tokenizer, Sampling(max_tokens=8))
    yield session
    session.runtime.close()


def turns(session, count, keep=lambda text: text):
    """Talks for so many turns; returns the tokens prefilled in each."""
    messages, prefilled = [], []
    for turn in range(count):
        messages.append({"role": "user", "content": f"question number {turn}"})
        for _ in session.answer(session.encode(messages)):
            pass
        last = session.last
        prefilled.append(last.prompt_tokens - last.reused_tokens)
        messages.append({"role": "assistant", "content": keep(last.text)})
    return prefilled


def test_prefill_stays_flat_over_eight_turns(session):
    prefilled = turns(session, 8)
    assert max(prefilled) <= prefilled[0] + 12 + 8, prefilled
    assert max(prefilled[1:]) - min(prefilled[1:]) <= 12, prefilled


def test_a_template_that_drops_thinking_keeps_the_common_prefix(session):
    prefilled = turns(session, 8, keep=lambda text: "")
    assert max(prefilled[1:]) - min(prefilled[1:]) <= 12, prefilled


def test_a_cache_that_cannot_be_trimmed_is_read_again_and_said(session, monkeypatch):
    monkeypatch.setattr("moe_mlx.loading.cutting.can_trim_prompt_cache", lambda cache: False)
    turns(session, 2, keep=lambda text: "")
    assert session.last.reused_tokens == 0 and "cannot be trimmed" in session.last.refilled


def test_after_a_stop_the_token_in_flight_is_accounted_for(session):
    session.sampling = Sampling(max_tokens=50)
    messages = [{"role": "user", "content": "go on"}]
    stream = session.answer(session.encode(messages))
    for _ in range(3):
        next(stream)
    stream.close()
    text = session.last.text
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "and"}]
    for _ in session.answer(session.encode(messages)):
        break
    session.sampling = Sampling(max_tokens=4)
    prompt = session.encode(messages)
    for _ in session.answer(prompt):
        pass
    assert session.last.reused_tokens >= len(prompt) - 8
