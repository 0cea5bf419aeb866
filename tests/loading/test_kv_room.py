"""A model's KV cache: what is planned is what it takes, and what its family's caches cannot do is said in time."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.conversation.context import context_watch
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import UsageError
from moe_mlx.loading import kv_room
from moe_mlx.loading.skeleton import build
from moe_mlx.planning.kv_cache import KVWish
from moe_mlx.store import open_source
from tests.checkpoints import tiny_checkpoint

#: Full attention, sliding windows, latent attention, a list of caches, states of linear attention, chunks.
KINDS = ["qwen3_moe", "gpt_oss", "deepseek_v3", "deepseek_v32", "qwen3_next", "llama4"]
TOKENS = 300


@contextmanager
def loaded(folder: Path, caching: KVCacheSettings, said: list[str], **options: Any) -> Iterator[Session]:
    named = {"kv_bits": caching.kv_bits, "kv_group_size": caching.kv_group_size}
    start = {"quantized_kv_start": caching.quantized_kv_start}
    model, tokenizer = moe_mlx.load(
        folder, expert_cache="100%", decode="readback", say=said.append, **named, **start, **options
    )
    session = Session(model, tokenizer, Sampling(max_tokens=4), caching)
    yield session
    session.runtime.close()


def fill(session: Session, tokens: int) -> None:
    """Has a conversation of so many tokens in the cache, the last of them made one by one."""
    session.sampling = Sampling(max_tokens=3)
    for _ in session.answer([5 + n % 90 for n in range(tokens - 2)]):
        pass


def room_of(folder: Path, wish: KVWish) -> kv_room.KVRoom:
    with open_source(folder) as source:
        return kv_room.kv_room(build(folder, source).model, "x", source.config, wish)


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("family", KINDS)
def test_what_is_planned_is_what_it_takes(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = tiny_checkpoint(family, tmp_path / family)
    with loaded(folder, KVCacheSettings(prefill_step_size=64), []) as session:
        runtime = session.runtime
        assert main(["plan", str(folder), "--json", "--available", "4GB"]) == 0
        assert json.loads(capsys.readouterr().out)["kv_cache_bytes"] == runtime.kv.nbytes == runtime.plan.kv_cache
        fill(session, TOKENS)
        assert session.kv_nbytes == room_of(folder, KVWish(TOKENS, rotating=False)).nbytes


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_a_bound_holds_or_is_said_not_to(family: str, tmp_path: Path):
    folder, said = tiny_checkpoint(family, tmp_path / family), []
    with loaded(folder, KVCacheSettings(max_kv_size=16, prefill_step_size=8), said, max_kv_size=16) as session:
        runtime, watch = session.runtime, context_watch(session)
        fill(session, 80)
        assert session.kv_nbytes <= runtime.plan.kv_cache
        remarks = watch.remarks(80)
        if runtime.kv.own:
            assert runtime.kv.tokens == 8192 and remarks == []
            assert any("makes its own KV cache" in line and "8,192" in line for line in said)
        else:
            assert (session.kv_nbytes, runtime.kv.tokens) == (runtime.plan.kv_cache, 16)
            assert any("keeps 16" in line for line in remarks)
            assert not any("KV cache" in line for line in said)


@pytest.mark.parametrize(
    ("family", "why"),
    [("gpt_oss", "sliding"), ("deepseek_v3", "attention does not read"), ("deepseek_v32", "no quantised form")],
)
def test_bits_that_cannot_be_are_refused_before_any_weight_is_read(
    family: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tiny_checkpoint(family, tmp_path / family)
    monkeypatch.setattr("moe_mlx.loading.loader.read_resident", pytest.fail)
    with pytest.raises(UsageError, match=why) as refusal:
        moe_mlx.load(folder, decode="readback", say=lambda line: None, kv_bits=8, kv_group_size=32)
    assert family in str(refusal.value)
    monkeypatch.undo()
    with loaded(folder, KVCacheSettings(), []) as session, pytest.raises(UsageError, match=why):
        Session(session.model, session.tokenizer, caching=KVCacheSettings(kv_bits=8, kv_group_size=32))


def test_a_quantised_cache_is_planned_as_what_it_takes_and_the_rest_is_said(tmp_path: Path):
    caching = KVCacheSettings(kv_bits=8, kv_group_size=32, quantized_kv_start=10, prefill_step_size=64)
    with loaded(tiny_checkpoint("qwen3_moe", tmp_path / "a"), caching, [], max_kv_size=TOKENS) as session:
        fill(session, TOKENS)
        assert session.kv_nbytes == session.runtime.plan.kv_cache
    said: list[str] = []
    with loaded(tiny_checkpoint("llama4", tmp_path / "b"), caching, said) as session:
        fill(session, 100)
    assert any("leaves a part" in line and "ChunkedKVCache" in line for line in said)


def test_groups_that_do_not_divide_a_head_are_refused_with_one_that_does(tmp_path: Path):
    folder = tiny_checkpoint("qwen3_moe", tmp_path / "m")
    with pytest.raises(UsageError, match="give 32"):
        moe_mlx.load(folder, say=lambda line: None, kv_bits=4)
    odd = kv_room.KVRoom("x", False, ("KVCache",), (80,), (), "", 1, 1)
    with pytest.raises(UsageError, match="leave kv_bits out"):
        odd.check_bits(4, 64)
    odd.check_bits(None, 64)


def test_answers_made_at_once_share_what_is_planned(tmp_path: Path):
    folder = tiny_checkpoint("qwen3_next", tmp_path / "m")
    one = room_of(folder, KVWish(2048, rotating=False))
    eight = room_of(folder, KVWish(2048, rotating=False, sequences=8))
    assert eight.tokens == one.tokens == 2048
    assert eight.nbytes > one.nbytes  # each answer has a state of its own
