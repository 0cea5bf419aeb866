"""A price held over a model: what a look finds is the resident model's, and the answer does not notice it."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import stream_generate
from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
from mlx_lm.sample_utils import make_sampler

import moe_mlx
from moe_mlx.conversation import held
from moe_mlx.conversation import keeper as keeping
from moe_mlx.conversation.divergence import divergence_of, log_probabilities
from moe_mlx.conversation.keeper import Keeper, hold
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import DoesNotFitError, ExpertReadError, UsageError
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.history.verdicts import Verdict
from moe_mlx.routing.ladder import Rung
from moe_mlx.routing.price import KL, Price, Quality
from moe_mlx.routing.settings import RoutingSettings

PROMPT = [3, 40, 41, 42, 43, 44, 2, 4]
FAMILIES = ["qwen3_moe", "qwen3_next", "longcat_flash"]
PRICE = Price(Quality(KL, 0.01))


def endless(tokenizer):
    """Rules out the tokens that end an answer."""
    ends = mx.array(sorted(tokenizer.eos_token_ids))

    def process(tokens, logits):
        logits[..., ends] = -mx.inf
        return logits

    return [process]


def sampled(model, tokenizer, tokens):
    mx.random.seed(5)
    more = {"sampler": make_sampler(0.8), "logits_processors": endless(tokenizer)}
    return [one.token for one in stream_generate(model, tokenizer, PROMPT, max_tokens=tokens, **more)]


def counted_state(runtime):
    """Every table and count, but for the time things took."""
    runtime.drain()
    runtime.layers.ledger.collect(closing=True)
    names = ("slot_of", "owner", "used", "heat", *ResidencyTable.COUNTS)
    tables = [
        {name: list(getattr(cache.table, name)) for name in names} | {"state": cache.table.state.tobytes()}
        for cache in runtime.layers
    ]
    stats = runtime.stats
    return tables, [replace(one, wait_seconds=0.0, host_seconds=0.0) for one in (stats.decode, stats.prefill)]


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_looking_back_does_not_change_the_answer(capped, monkeypatch, family):
    one = (Rung(0.5, 0.0, 1), Rung(0.5, 1.0, 1))  # whichever is taken, the routing is the same
    monkeypatch.setattr(keeping, "ladder_of", lambda runtime, price: one)
    model, tokenizer = capped(family, expert_cache="30%", route_lambda=0.5, route_top_j=1)
    runtime = moe_mlx.runtime_of(model)
    plain, before = sampled(model, tokenizer, 100), counted_state(runtime)
    moe_mlx.reset(model)
    with Keeper(model, PRICE) as keeper:
        answer = sampled(model, tokenizer, 100)
        keeper.settle()
    assert answer == plain
    assert counted_state(runtime) == before
    summary = keeper.summary()
    assert summary.tokens + summary.unseen == len(plain) + 1, "all of them, the step that runs ahead too"
    assert summary.tokens >= 64 and summary.unseen == keeper._look.waiting
    assert summary.kl > 0 and summary.bytes_read > 0 and summary.spent == summary.kl
    keeper.close()
    assert runtime.plan.extra == 0


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_a_look_finds_what_the_resident_model_says(capped, family):
    model, _ = capped(family, expert_cache="30%")
    whole, _ = capped(family, expert_cache="100%", routing="exact")
    keeper = Keeper(model, PRICE)
    seen, steps = [], []
    keeper._take = lambda looked: seen.extend(looked.kls)
    with keeper:
        keeper.runtime.set_routing(route_lambda=0.8, route_top_j=1, routing="cache-prior")
        keeper._in_force = keeper.runtime.routing
        theirs, ours = make_prompt_cache(whole), make_prompt_cache(model)
        mx.eval(whole(mx.array([PROMPT]), cache=theirs), model(mx.array([PROMPT]), cache=ours))
        for token in range(30, 94):
            steps.append(
                tuple(one(mx.array([[token]]), cache=cache)[0, -1] for one, cache in ((whole, theirs), (model, ours)))
            )
            mx.eval(steps[-1])
        keeper.settle()
    expected = [divergence_of(*map(log_probabilities, step)).item() for step in steps]
    assert np.allclose(seen, expected, rtol=1e-2, atol=2e-6)
    assert max(expected) > 1e-4
    keeper.close()


def test_an_answer_is_read_along_with_the_next_prompt_and_the_conversation_is_then_the_exact_one(capped):
    model, _ = capped(expert_cache="30%")
    whole, _ = capped(expert_cache="100%", routing="exact")
    keeper = Keeper(model, PRICE)
    seen, expected, take = [], [], keeper._take
    keeper._take = lambda looked: (seen.append(looked.kls), take(looked))
    theirs, ours = make_prompt_cache(whole), make_prompt_cache(model)
    for turn in range(4):  # answers of 15 tokens, too few for a look of their own
        keeper.reset()
        with keeper:
            keeper._move(len(keeper.ladder) - 1)
            said = mx.array([[3, 40 + turn, 41, 42]])
            logits = [one(said, cache=to) for one, to in ((whole, theirs), (model, ours))]
            assert logits[1].shape == logits[0].shape and np.allclose(*map(np.array, logits), atol=1e-4)
            for part, exact in zip(ours, theirs, strict=True):  # nothing that an answer's routing did is left
                assert part.offset == exact.offset
                assert np.allclose(np.array(part.state[0]), np.array(exact.state[0]), atol=1e-4)
            for token in range(30, 45):
                step = [one(mx.array([[token + turn]]), cache=to) for one, to in ((whole, theirs), (model, ours))]
                expected.append(divergence_of(*[log_probabilities(logits[0, -1]) for logits in step]).item())
            keeper.settle()
        assert (keeper.summary().tokens, keeper.summary().unseen) == (15 if turn else 0, 15)
    assert keeper.summary().bytes_read == 0, "the prompt's own reads were enough"
    assert np.allclose(np.concatenate(seen), expected[:45], rtol=1e-2, atol=2e-6) and max(expected) > 1e-4
    keeper.close()


def test_what_was_cut_off_before_a_look_is_left_out_and_counted(capped):
    model, _ = capped(expert_cache="30%")
    keeper, cache = Keeper(model, PRICE), make_prompt_cache(model)

    def answer(tokens):
        for token in range(tokens):
            mx.eval(model(mx.array([[30 + token]]), cache=cache))

    with keeper:
        mx.eval(model(mx.array([PROMPT]), cache=cache))
        answer(70)
        assert (keeper.summary().tokens, keeper.summary().unseen) == (64, 6)
        keeper.settle()
        keeper.reset()
        trim_prompt_cache(cache, 70)  # asked for once more: back to the prompt
        answer(20)
        assert (keeper._skipped, keeper.summary().unseen, keeper._look.waiting) == (6, 20, 20)
        keeper._look.look()
        assert cache[0].offset == keeper._look._exact[0].offset
    keeper.close()


@pytest.mark.slow
def test_in_the_graph_it_is_the_same(capped):
    model, tokenizer = capped(expert_cache="30%", decode="auto")
    if moe_mlx.runtime_of(model).decode_way != "native":
        pytest.skip(moe_mlx.runtime_of(model).decode_reason)
    other, _ = capped(expert_cache="30%")
    found = []
    for one in (model, other):
        with Keeper(one, PRICE) as keeper:
            tokens = sampled(one, tokenizer, 200)
            keeper.settle()
        found.append((tokens, replace(keeper.summary(), seconds=0.0)))
        keeper.close()
    assert found[0] == found[1]
    assert len(found[0][1].settings) > 1, "it moved"
    assert moe_mlx.runtime_of(model).stats.decode.read_backs == 0


def test_a_session_holds_it_and_its_receipt_says_so(capped):
    model, tokenizer = capped(expert_cache="30%")
    session = Session(model, tokenizer, Sampling(max_tokens=220), raw=True, auditor=Keeper(model, PRICE))
    list(session.answer(PROMPT, logits_processors=endless(tokenizer)))
    receipt = session.last.receipt
    assert receipt.audit.tokens == 64 + 128 and receipt.audit.tokens + receipt.audit.unseen >= 220
    assert receipt.audit.budget == 0.01
    assert receipt.held in receipt.describe() and "quality KL 0.01; spent" in receipt.held
    used = sum(tokens for _, tokens in receipt.as_dict()["audit"]["settings"])
    assert used == receipt.audit.tokens + receipt.audit.unseen
    learned = session.auditor.holder.tokens
    list(session.answer(PROMPT, logits_processors=endless(tokenizer)))
    assert session.auditor.holder.tokens > learned, "what was learned stays"
    session.sampling = Sampling(max_tokens=10)
    list(session.answer(PROMPT, logits_processors=endless(tokenizer)))
    audit = session.last.receipt.audit
    assert audit.tokens == 0 and audit.unseen == 11, "few tokens wait for the next look"
    assert "0 tokens audited, 11 not" in session.last.receipt.held
    session.auditor.close()


def test_what_was_not_looked_at_is_said_with_the_error_it_leaves(capped):
    model, tokenizer = capped(expert_cache="30%", route_lambda=0.5)
    with Keeper(model, PRICE) as keeper:
        sampled(model, tokenizer, 100)
        keeper.settle()
        summary = keeper.summary()
    assert (summary.tokens, summary.unseen) == (64, 37)
    losses = keeper.holder._recent
    deviation = np.std(losses)
    assert summary.spent_error == pytest.approx(deviation * np.sqrt(37 * (1 + 37 / 64)) / 101)
    assert f"± {summary.spent_error:.1g}; 64 tokens audited, 37 not" in summary.describe()
    keeper.close()


def test_it_starts_from_what_was_measured_of_enough_tokens(capped, monkeypatch):
    model, _ = capped()

    def verdict(tokens, lam, kl):
        return Verdict("exact", 0.6, 1, f"cache-prior {lam}", "50%", tokens, kl, 0.0, 0.9)

    def started(*verdicts):
        monkeypatch.setattr(held, "read_verdicts", lambda identity: list(verdicts))
        keeper = Keeper(model, PRICE)
        try:
            return keeper.ladder[keeper.place].lam, "measured" in keeper.why and "nothing" not in keeper.why
        finally:
            keeper.close()

    assert started() == started(verdict(60, 0.1, 0.01)) == (0.02, False)
    assert started(verdict(700, 0.1, 0.01)) == (0.1, True)
    assert started(verdict(700, 0.1, 0.02), verdict(700, 0.05, 0.01))[0] < 0.05 + 1e-3


def test_whoever_changes_the_routing_has_it(capped):
    model, tokenizer = capped()
    keeper = hold(model, quality=0.01)
    runtime = moe_mlx.runtime_of(model)
    sampled(model, tokenizer, 5)
    chosen = runtime.set_routing(routing="cache-prior", route_lambda=0.33)
    sampled(model, tokenizer, 100)
    assert runtime.routing == chosen and "changed by hand" in keeper.summary().why
    keeper.close()
    assert runtime.routing == chosen


def test_the_routing_from_before_comes_back(capped):
    model, tokenizer = capped(route_lambda=0.25)
    runtime, plain = moe_mlx.runtime_of(model), type(model)
    before = runtime.routing
    keeper = hold(model, quality="99%", speed=1e9)
    sampled(model, tokenizer, 40)
    assert runtime.routing != before and not runtime.routing.light_rule.waits
    keeper.close()
    assert runtime.routing == before and type(model) is plain and runtime.plan.extra == 0


def test_an_expert_that_a_look_cannot_read_ends_the_answer_and_the_next_one_is_right(capped, monkeypatch):
    def gone(layer, experts, bank):
        raise ExpertReadError(layer.spec.layer, experts[0], "x", "gone")

    model, tokenizer = capped(expert_cache="30%")
    runtime = moe_mlx.runtime_of(model)
    with Keeper(model, PRICE) as keeper:
        scratch = keeper._look.scratch
        with monkeypatch.context() as patched:
            patched.setattr(
                scratch,
                "_read",
                lambda layer, *_: (_ for _ in ()).throw(ExpertReadError(layer.spec.layer, 3, "x", "gone")),
            )
            with pytest.raises(ExpertReadError, match="gone"):
                sampled(model, tokenizer, 100)
        assert all(layer.aside is None for layer in runtime.layers)
        runtime.drain()
        sampled(model, tokenizer, 100)
        assert keeper.summary().tokens >= 64
    keeper.close()


def test_what_cannot_be_held(capped, monkeypatch):
    model, _ = capped()
    runtime = moe_mlx.runtime_of(model)
    with pytest.raises(UsageError, match="give quality, speed, or both"):
        hold(model)
    runtime.sizing.plan = replace(runtime.plan, available=runtime.plan.total)
    with pytest.raises(DoesNotFitError, match="second KV cache"):
        hold(model, quality=0.01)
    assert runtime.plan.extra == 0 and runtime.routing == RoutingSettings()
    monkeypatch.setattr(runtime.layers, "routed", False)
    with pytest.raises(UsageError, match="router of qwen3_moe is not known"):
        hold(model, speed=3)
