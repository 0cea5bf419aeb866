"""An audited answer is the same answer: same tokens, same counts, same tables, whatever was audited."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import stream_generate
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_sampler

import moe_mlx
from moe_mlx.conversation.audit import Auditor
from moe_mlx.conversation.receipt import Receipt
from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx.expert_cache.residency import ResidencyTable

PROMPT = [3, 40, 41, 42, 43, 44, 2, 4]
FAMILIES = ["qwen3_moe", "deepseek_v3", "qwen3_next", "gpt_oss", "longcat_flash"]


def answer(model, tokenizer, every, tokens=24):
    """One sampled answer from an emptied cache: its tokens, its receipt, and the state it leaves."""
    runtime = moe_mlx.runtime_of(model)
    moe_mlx.reset(model)
    mx.random.seed(5)
    assert runtime.stats.decode.steps == runtime.stats.prefill.steps == 0
    stream = stream_generate(model, tokenizer, PROMPT, max_tokens=tokens, sampler=make_sampler(0.8))
    summary = None
    if every:
        audit = Auditor(model, every)
        with audit:
            out = [response.token for response in stream]
        summary = audit.summary()
        audit.close()
    else:
        out = [response.token for response in stream]
    runtime.drain()
    runtime.layers.ledger.collect(closing=True)
    stats = runtime.stats
    receipt = Receipt.of(stats.decode, stats.prefill, stats.discarded_steps, runtime.routing.describe(), summary)
    names = ("slot_of", "owner", "used", "heat", *ResidencyTable.COUNTS)
    tables = [
        {name: list(getattr(cache.table, name)) for name in names} | {"state": cache.table.state.tobytes()}
        for cache in runtime.layers
    ]
    return out, receipt, tables


def counted(receipt: Receipt) -> Receipt:
    """What an audit may not change: everything but its own findings and the time things took."""
    prompt = replace(receipt.prompt, wait_seconds=0.0, host_seconds=0.0)
    return replace(receipt, audit=None, wait_seconds=0.0, host_seconds=0.0, prompt=prompt)


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_audit_does_not_change_the_answer(capped, family):
    model, tokenizer = capped(family, expert_cache="30%", route_lambda=0.5, route_top_j=1)
    plain, receipt, tables = answer(model, tokenizer, 0)
    for every in (1, 3):
        audited, other, after = answer(model, tokenizer, every)
        assert audited == plain
        assert after == tables
        assert counted(other) == counted(receipt)
        assert other.audit.tokens == (receipt.tokens + receipt.discarded_steps) // every
    assert receipt.swapped > 0
    assert other.audit.bytes_read > 0


def test_nor_where_decode_runs_in_the_graph(capped):
    model, tokenizer = capped(expert_cache="30%", route_lambda=0.5, route_top_j=1, decode="auto")
    if moe_mlx.runtime_of(model).decode_way != "native":
        pytest.skip(moe_mlx.runtime_of(model).decode_reason)
    assert answer(model, tokenizer, 2)[0::2] == answer(model, tokenizer, 0)[0::2]


def test_of_exact_routing_finds_no_difference(capped):
    model, tokenizer = capped(routing="exact", expert_cache="30%")
    _, receipt, _ = answer(model, tokenizer, 2)
    assert receipt.audit.agreement == 1.0
    assert receipt.audit.kl == 0.0


def test_the_exact_forward_is_the_fully_resident_models(capped):
    model, _ = capped(expert_cache="30%", route_lambda=0.7, route_top_j=1)
    whole, _ = capped(expert_cache="100%")
    seen = []
    with Auditor(model, 1) as audit:
        audit.compare = lambda exact, policy: seen.append((exact, policy))
        theirs, ours = make_prompt_cache(whole), make_prompt_cache(model)
        mx.eval(whole(mx.array([PROMPT]), cache=theirs), model(mx.array([PROMPT]), cache=ours))
        expected = whole(mx.array([[50]]), cache=theirs)  # the prompt was exact in both, so the states are equal
        found = model(mx.array([[50]]), cache=ours)
    assert mx.array_equal(seen[0][0], expected)
    assert mx.array_equal(seen[0][1], found)
    assert not mx.array_equal(expected, found)


def test_divergence_is_the_textbooks(capped):
    model, _ = capped()
    rng = np.random.default_rng(0)
    audit = Auditor(model, 1)
    a, b = rng.normal(size=50), rng.normal(size=50)
    audit.compare(mx.array(a.astype(np.float32))[None, None], mx.array(b.astype(np.float32))[None, None])
    p, q = np.exp(a) / np.exp(a).sum(), np.exp(b) / np.exp(b).sum()
    assert audit.summary().kl == pytest.approx((p * np.log(p / q)).sum(), rel=1e-4)
    assert audit.summary().agreement == float(a.argmax() == b.argmax())


def test_scratch_slots_count_in_the_plan(capped):
    model, _ = capped()
    runtime = moe_mlx.runtime_of(model)
    plan = runtime.plan
    audit = Auditor(model, 4)
    spec = runtime.layers[0].spec
    assert audit.nbytes == spec.top_k * spec.expert_nbytes
    assert runtime.plan.total == plan.total + audit.nbytes
    runtime.resize("30%")
    assert runtime.plan.extra == audit.nbytes
    audit.close()
    assert runtime.plan.extra == 0
    runtime.sizing.plan = replace(plan, available=plan.total)
    with pytest.raises(DoesNotFitError, match="audit needs"):
        Auditor(model, 4)


def test_the_model_is_left_as_it_was(capped):
    model, _ = capped()
    before = type(model)
    with pytest.raises(RuntimeError, match="stop"), Auditor(model, 1):
        assert isinstance(model, before)
        raise RuntimeError("stop")
    assert type(model) is before
    assert not hasattr(model, "moe_mlx_auditor")


@pytest.mark.parametrize("every", [0, -3, 1.5, True])
def test_every_must_be_a_whole_number(capped, every):
    model, _ = capped()
    with pytest.raises(UsageError, match="every how many-th token"):
        Auditor(model, every)


def test_a_receipt_in_words(capped):
    model, tokenizer = capped(expert_cache="30%", route_lambda=0.5, route_top_j=1)
    _, receipt, _ = answer(model, tokenizer, 8)
    record = receipt.as_dict()
    assert record["hit_rate"] == receipt.hits / (receipt.hits + receipt.misses)
    assert record["audit"]["every"] == 8
    line = receipt.describe()
    for part in (f"{receipt.tokens} tokens", "swapped", "cache-prior lambda 0.5", "agree with exact"):
        assert part in line
