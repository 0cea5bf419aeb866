"""Pictures in a conversation: the tokens of mlx-vlm, whatever is asked before and after."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import UsageError
from moe_mlx.loading.proof import prove
from moe_mlx.vlm.pictures import decode_picture, with_pictures
from moe_mlx_convert import convert
from tests.families.pictures import png, qwen3_vl_checkpoint

TOKENS, CHUNK = 12, 16
RED, GREEN = decode_picture(png(), "red.png"), decode_picture(png((10, 200, 40), (64, 64)), "green.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_vl_checkpoint(tmp_path_factory.mktemp("pictures") / "model")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    """What mlx-vlm answers, by its own loop: text and pictures -> tokens."""
    from mlx_vlm import load, stream_generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = load(str(folder), trust_remote_code=False)

    def answer(text: str, *pictures: Any) -> list[int]:
        prompt = apply_chat_template(processor, model.config, text, num_images=len(pictures))
        images = [picture.image for picture in pictures] or None
        stream = stream_generate(
            model, processor, prompt, image=images, max_tokens=TOKENS, temperature=0.0, prefill_step_size=CHUNK
        )
        return [response.token for response in stream][:TOKENS]  # its last response repeats the last token

    return answer


def session_of(folder: Path, **options: Any) -> Session:
    options = {"pictures": True, "routing": "exact", "say": lambda line: None, **options}
    model, tokenizer = moe_mlx.load(folder, **options)
    return Session(model, tokenizer, Sampling(max_tokens=TOKENS), KVCacheSettings(prefill_step_size=CHUNK))


def ask(session: Session, content: Any) -> list[int]:
    for _ in session.answer(session.encode([{"role": "user", "content": content}])):
        pass
    assert session.last is not None
    return list(session.last.tokens)


@pytest.mark.parametrize("decode", ["readback", "native"])
def test_pictures_give_mlx_vlm_s_tokens(folder: Path, theirs: Any, decode: str) -> None:
    """Before, between and after text, which is not moved by them."""
    session = session_of(folder, expert_cache="25%", decode="auto" if decode == "native" else decode)
    both, one, text = theirs("What?", RED, GREEN), theirs("And?", GREEN), theirs("hello")
    assert ask(session, "hello") == text
    assert ask(session, with_pictures("What?", [RED, GREEN])) == both
    assert ask(session, with_pictures("And?", [GREEN])) == one
    assert "read again" in session.last.refilled  # type: ignore[union-attr]
    assert ask(session, "hello") == text
    assert both != one
    session.runtime.close()


def test_a_store_keeps_the_tower_and_text_does_without_it(folder: Path, theirs: Any, tmp_path: Path) -> None:
    said: list[str] = []
    summary = convert(str(folder), tmp_path / "store", prove=prove, say=said.append)
    assert any("vision tower is kept" in line for line in said) and not summary.left_out
    shown, plain = session_of(tmp_path / "store"), session_of(tmp_path / "store", pictures=False)
    assert ask(shown, with_pictures("What?", [RED])) == theirs("What?", RED)
    assert plain.runtime.pictures is None and ask(plain, "hello") == theirs("hello")
    assert plain.runtime.plan.resident_weights < shown.runtime.plan.resident_weights
    with pytest.raises(UsageError, match="--image"):
        plain.encode([{"role": "user", "content": with_pictures("What?", [RED])}])
    for session in (shown, plain):
        session.runtime.close()


def test_generate_takes_pictures(folder: Path, theirs: Any, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "red.png").write_bytes(png())
    command = ["generate", "--model", str(folder), "-p", "What?", "--max-tokens", str(TOKENS), "--json", "--no-history"]
    assert main([*command, "--routing", "exact", "--image", str(tmp_path / "red.png")]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == theirs("What?", RED)
    (tmp_path / "no.png").write_bytes(b"\x89PNG\r\n\x1a\nand nothing more")
    assert main([*command, "--image", str(tmp_path / "no.png")]) == 2
    assert "no picture that can be read" in capsys.readouterr().err


def test_pictures_for_a_model_that_sees_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot be shown"):
        moe_mlx.load(pictures=True)
