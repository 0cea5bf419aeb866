"""Prompt caches on disk: found again after a restart, bounded, private, and nothing that is damaged is used."""

from pathlib import Path

import numpy as np
import pytest

import moe_mlx
from moe_mlx.conversation import prompt_store
from moe_mlx.conversation.prompt_store import LEAST_TOKENS, open_prompt_store
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.session import Session
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"), quantization=AFFINE4)


def talk(
    checkpoint: Path, folder: Path | None, *, routing: str = "exact", most: int = 10**9, decode: str = "readback"
) -> Session:
    model, tokenizer = moe_mlx.load(
        checkpoint, expert_cache="75%", routing=routing, decode=decode, say=lambda line: None
    )
    session = Session(model, tokenizer, Sampling(max_tokens=8))
    if folder is not None:
        session.store = open_prompt_store(session.runtime, folder, session.caching, most_bytes=most)
    return session


def answer(session: Session, prompt: list[int]) -> tuple[tuple[int, ...], int]:
    for _ in session.answer(prompt):
        pass
    assert session.last is not None
    return session.last.tokens, session.last.reused_tokens


def prompt_of(session: Session, text: str) -> list[int]:
    return session.encode([{"role": "user", "content": text}])


LONG = "a fox and a hen and an owl " * 20


def test_a_conversation_is_not_read_again_after_a_restart(checkpoint: Path, tmp_path: Path):
    first = talk(checkpoint, tmp_path)
    prompt = prompt_of(first, LONG)
    tokens, reused = answer(first, prompt)
    assert reused == 0 and first.keep_prompt()
    longer = [*prompt, *tokens, *prompt_of(first, "and then")]
    expected = answer(talk(checkpoint, None), longer)[0]
    again, reused = answer(talk(checkpoint, tmp_path), longer)
    assert again == expected and reused == len(prompt) + len(tokens)
    same, reused = answer(talk(checkpoint, tmp_path), prompt)
    assert same == tokens and reused == len(prompt) - 1


def read_of(session: Session) -> int:
    """Prompt tokens that the model was called with since loading."""
    prefill = session.runtime.stats.prefill
    return prefill.tokens


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3_moe", "qwen3_next", "gpt_oss"])  # full attention, hybrid, sliding windows
def test_four_thousand_tokens_are_not_read_again_after_a_restart(tmp_path: Path, family: str):
    checkpoint = tiny_checkpoint(family, tmp_path / "model", quantization=None)
    first = talk(checkpoint, tmp_path / "kept", decode="auto")
    words = list(np.random.default_rng(1).integers(30, 90, 4000))
    prompt = [int(token) for token in words]
    tokens, _ = answer(first, prompt)
    assert read_of(first) >= 4000 - 1
    assert first.keep_prompt()
    longer = [*prompt, *tokens, *prompt[:40]]
    expected = answer(talk(checkpoint, None, decode="auto"), longer)[0]

    again = talk(checkpoint, tmp_path / "kept", decode="auto")
    assert again.store is not None
    assert again.store.held(longer) == len(prompt) + len(tokens)
    assert answer(again, longer) == (expected, len(prompt) + len(tokens))
    assert read_of(again) <= 40

    other = [*prompt[:3900], *reversed(prompt[:100])]  # shares a beginning, then goes another way
    fresh = talk(checkpoint, tmp_path / "kept", decode="auto")
    assert fresh.store is not None
    wanted = answer(talk(checkpoint, None, decode="auto"), other)[0]
    reused = 3900 if family == "qwen3_moe" else 0
    assert answer(fresh, other) == (wanted, reused) and fresh.last is not None
    assert ("cannot be trimmed" in fresh.last.refilled) == (not reused)


def test_the_folder_is_read_once_and_again_when_another_program_adds_to_it(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    plain = prompt_store._read_entry
    monkeypatch.setattr(prompt_store, "_read_entry", lambda path: read.append(path.name) or plain(path))
    one, two = talk(checkpoint, tmp_path), talk(checkpoint, tmp_path)
    assert one.store is not None and two.store is not None
    prompt = prompt_of(one, LONG)
    answer(one, prompt)
    one.keep_prompt()
    assert two.store.held(prompt) == len(prompt) - 1  # a store of its own finds what the other has written
    for _ in range(20):
        assert one.store.held(prompt) == len(prompt) - 1
    assert len(read) == 2
    for path in tmp_path.rglob("*.tokens"):
        path.unlink()
    assert one.store.held(prompt) == two.store.held(prompt) == 0


def test_nobody_else_reads_it(checkpoint: Path, tmp_path: Path):
    session = talk(checkpoint, tmp_path)
    answer(session, prompt_of(session, LONG))
    assert session.keep_prompt()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("where", [".safetensors", ".tokens"])
@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_what_is_damaged_is_not_used(checkpoint: Path, tmp_path: Path, where: str, how: str):
    session = talk(checkpoint, tmp_path)
    prompt = prompt_of(session, LONG)
    tokens, _ = answer(session, prompt)
    session.keep_prompt()
    (path,) = tmp_path.rglob(f"*{where}")
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-5] if how == "cut" else b"" if how == "empty" else data)
    assert answer(talk(checkpoint, tmp_path), prompt) == (tokens, 0)


def test_another_routing_is_another_store(checkpoint: Path, tmp_path: Path):
    session = talk(checkpoint, tmp_path)
    prompt = prompt_of(session, LONG)
    answer(session, prompt)
    session.keep_prompt()
    assert answer(talk(checkpoint, tmp_path, routing="cache-prior"), prompt)[1] == 0


def test_bytes_are_bounded_and_the_one_unused_longest_goes(checkpoint: Path, tmp_path: Path):
    session = talk(checkpoint, tmp_path)
    answer(session, prompt_of(session, "0 " + LONG))
    session.keep_prompt()
    one = sum(path.stat().st_size for path in tmp_path.rglob("*.*"))
    assert session.store is not None
    session.store.most_bytes = int(2.5 * one)
    for number in range(1, 4):
        answer(session, prompt_of(session, f"{number} {LONG}"))
        assert session.keep_prompt()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) <= 2.5 * one
    assert answer(talk(checkpoint, tmp_path), prompt_of(session, f"3 {LONG}"))[1] > 0
    assert answer(talk(checkpoint, tmp_path), prompt_of(session, f"0 {LONG}"))[1] < LEAST_TOKENS


@pytest.mark.slow
def test_a_cache_that_cannot_be_cut_back_is_used_only_whole(tmp_path: Path):
    checkpoint = tiny_checkpoint("qwen3_next", tmp_path / "model")
    session = talk(checkpoint, tmp_path / "kept")
    assert session.store is not None and not session.store.trimmable
    prompt = prompt_of(session, LONG)
    tokens, _ = answer(session, prompt)
    assert session.keep_prompt()
    assert answer(talk(checkpoint, tmp_path / "kept"), prompt)[1] == 0
    longer = [*prompt, *tokens, *prompt_of(session, "and then")]
    expected = answer(talk(checkpoint, None), longer)[0]
    assert answer(talk(checkpoint, tmp_path / "kept"), longer) == (expected, len(prompt) + len(tokens))


def test_a_folder_that_cannot_be_written_is_one_line(checkpoint: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    said: list[str] = []
    session = talk(checkpoint, None)
    session.store = open_prompt_store(session.runtime, tmp_path / "file", KVCacheSettings(), say=said.append)
    answer(session, prompt_of(session, LONG))
    assert not session.keep_prompt() and not session.keep_prompt()
    assert len(said) == 1
