"""Prompt caches on disk: found again after a restart, bounded, private, and nothing that is damaged is used."""

from pathlib import Path

import pytest

import moe_mlx
from moe_mlx.conversation.prompt_store import LEAST_TOKENS, open_prompt_store
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.session import Session
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("model"), quantization=AFFINE4)


def talk(checkpoint: Path, folder: Path | None, *, routing: str = "exact", most: int = 10**9) -> Session:
    model, tokenizer = moe_mlx.load(
        checkpoint, expert_cache="75%", routing=routing, decode="readback", say=lambda line: None
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


def test_nobody_else_reads_it(checkpoint: Path, tmp_path: Path):
    session = talk(checkpoint, tmp_path)
    answer(session, prompt_of(session, LONG))
    assert session.keep_prompt()
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


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
