"""For every family: a plan is what is allocated, a store is its checkpoint, a chat has every KV option it can have.

A sample of the kinds of cache runs at once, all families in the nightly run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import stream_generate
from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.commands.chat import Conversation
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import UsageError
from moe_mlx.families.registry import UNTESTED
from moe_mlx.loading.kv_room import kv_room
from moe_mlx.loading.skeleton import build
from moe_mlx.loading.tokenizer import apply_template
from moe_mlx.planning.kv_cache import KVWish
from moe_mlx.store import open_source
from moe_mlx_convert import convert
from tests.families.configs import FAMILIES

SAMPLE = ("deepseek_v3", "gpt_oss", "granitemoehybrid")
ROWS = [
    pytest.param(name, marks=() if name in SAMPLE else pytest.mark.slow)
    for name in FAMILIES
    if name.partition("+")[0] not in UNTESTED
]
TOKENS = 100
QUANTISED = {"kv_bits": 8, "kv_group_size": 32, "quantized_kv_start": 4}


@contextmanager
def session_of(folder: Path, caching: KVCacheSettings, **options: Any) -> Iterator[Session]:
    model, tokenizer = moe_mlx.load(folder, decode="readback", say=lambda line: None, **options)
    yield Session(model, tokenizer, Sampling(max_tokens=3), caching)
    moe_mlx.runtime_of(model).close()


def resident_in(session: Session) -> dict[str, mx.array]:
    experts = {id(array) for cache in session.runtime.layers for array in cache.bank.arrays}
    named = tree_flatten(session.model.parameters())
    return {name: array for name, array in named if id(array) not in experts}


@pytest.mark.parametrize("name", ROWS)
def test_a_plan_is_what_is_allocated(family_checkpoint: Any, name: str, capsys: pytest.CaptureFixture[str]):
    folder = family_checkpoint(name)
    assert main(["plan", str(folder), "--json", "--available", "4GB", "--expert-cache", "50%"]) == 0
    planned = json.loads(capsys.readouterr().out)
    with session_of(folder, KVCacheSettings(prefill_step_size=64), expert_cache="50%") as session:
        runtime = session.runtime
        resident = sum(array.nbytes for array in resident_in(session).values())
        experts = sum(cache.bank.nbytes for cache in runtime.layers)
        assert resident == runtime.plan.resident_weights == planned["resident_bytes"]
        assert experts == runtime.plan.expert_cache == planned["caps"][0]["expert_cache"]
        assert runtime.plan.kv_cache == planned["kv_cache_bytes"]
        for _ in session.answer([5 + n % 90 for n in range(TOKENS - 2)]):
            pass
        held = len(session.last.tokens) + TOKENS - 2 if session.last else 0
    with open_source(folder) as source:
        model = build(folder, source).model
    # The last token drawn is in no cache yet, unless the step that runs ahead has put it there.
    assert session.kv_nbytes in {kv_room(model, name, {}, KVWish(n, rotating=False)).nbytes for n in (held - 1, held)}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one message": [{"role": "user", "content": "hi"}],
    "a system prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
    "turns with thinking": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        {"role": "user", "content": "again"},
    ],
}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("name", ROWS)
def test_a_store_is_its_checkpoint(family_checkpoint: Any, name: str, tmp_path: Path):
    folder = family_checkpoint(name)
    convert(str(folder), tmp_path / "store")
    found = []
    for place in (folder, tmp_path / "store"):
        with session_of(place, KVCacheSettings(), expert_cache="100%") as session:
            prompts = [session.encode(messages) for messages in CONVERSATIONS.values()]
            prompts.append(
                apply_template(
                    session.tokenizer, CONVERSATIONS["one message"], tools=[TOOL], add_generation_prompt=True
                )
            )
            experts = [bytes(buffer) for cache in session.runtime.layers for buffer in cache.bank.buffers(0)]
            weights = {key: (a.shape, a.dtype, bytes(a.view(mx.uint8))) for key, a in resident_in(session).items()}
            found.append((prompts, experts, weights))
    assert found[0] == found[1]


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("name", ROWS)
def test_a_chat_has_every_kv_option_that_its_family_takes(family_checkpoint: Any, name: str):
    folder = family_checkpoint(name)
    for options in ({}, {"max_kv_size": 64}, QUANTISED):
        caching = KVCacheSettings(prefill_step_size=16, **options)
        try:
            with session_of(folder, caching, expert_cache="50%", **options) as session:
                talk = Conversation(session, "be brief")
                for line in ("one", "two", "three"):
                    talk.turn(line)
                    assert talk.messages[-1]["role"] == "assistant"
        except UsageError as refusal:
            assert "kv_" in str(refusal) and options is QUANTISED
            assert not quantised_by_mlx_lm(folder, session_tokenizer(folder))
        else:
            assert options is not QUANTISED or quantised_by_mlx_lm(folder, session_tokenizer(folder))


def session_tokenizer(folder: Path) -> Any:
    with session_of(folder, KVCacheSettings(), expert_cache="50%") as session:
        return session.tokenizer


def quantised_by_mlx_lm(folder: Path, tokenizer: Any) -> bool:
    """Whether mlx-lm itself answers with a quantised cache of this model."""
    model = load_model(folder)[0]
    cache = make_prompt_cache(model)
    try:
        for _ in stream_generate(model, tokenizer, list(range(5, 30)), max_tokens=3, prompt_cache=cache, **QUANTISED):
            pass
    except Exception:  # whatever a family's attention makes of it
        return False
    return any(isinstance(layer, QuantizedKVCache) for layer in cache)
