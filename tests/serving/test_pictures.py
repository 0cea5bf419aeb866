"""Pictures in requests: the answer is the one of a conversation with them, from a client and from the app."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

from pydantic import ValidationError

import moe_mlx
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.serving.chat_fields import Part
from moe_mlx.vlm.pictures import MOST_PICTURES, decode_picture, with_pictures
from moe_mlx_tui.attached.answer import AttachedAnswer
from moe_mlx_tui.attached.link import Link
from moe_mlx_tui.engine.orders import Ask
from moe_mlx_tui.engine.snapshot import NO_FACTS
from moe_mlx_tui.entry.files import with_files
from tests.families.pictures import png, qwen3_vl_checkpoint
from tests.serving.running import READBACK, served

URL = "data:image/png;base64," + base64.b64encode(png()).decode()
TEXT = {"type": "text", "text": "What?"}


def asking(*content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}], "max_tokens": 12, "temperature": 0}


def answer_here(folder: Path) -> str:
    model, tokenizer = moe_mlx.load(folder, pictures=True, routing="exact", decode="readback")
    session = Session(model, tokenizer, Sampling(max_tokens=12))
    prompt = session.encode([{"role": "user", "content": with_pictures("What?", [decode_picture(png(), "red.png")])}])
    said = "".join(piece.text for piece in session.answer(prompt))
    session.close()
    return said


@pytest.mark.parametrize("told", ["low", "high", "auto", None])
def test_the_detail_is_passed_on_from_either_place(told: str | None) -> None:
    beside = Part.model_validate({"type": "image_url", "image_url": {"url": URL, "detail": told}})
    of_part = Part.model_validate({"type": "input_image", "image_url": URL, "detail": told})
    assert beside.plain["detail"] == of_part.plain["detail"] == (told or "auto")


@pytest.mark.parametrize("told", ["tiny", ""])
def test_another_detail_is_refused_by_name(told: str) -> None:
    with pytest.raises(ValidationError, match="detail of a picture: low, high or auto"):
        Part.model_validate({"type": "image_url", "image_url": {"url": URL, "detail": told}})
    with pytest.raises(ValidationError, match="detail of a picture: low, high or auto"):
        Part.model_validate({"type": "input_image", "image_url": URL, "detail": told})


@pytest.mark.slow
def test_a_picture_in_a_request_is_seen_and_too_many_are_not(tmp_path: Path) -> None:
    folder, shown = qwen3_vl_checkpoint(tmp_path / "model"), {"type": "image_url", "image_url": {"url": URL}}
    expected = answer_here(folder)
    options = ("--model", str(folder), "--pictures", "--max-tokens", "12", *READBACK)
    with served(model=options) as running:
        status, _, body = running.ask("/v1/chat/completions", asking(shown, TEXT))
        assert status == 200, body
        assert json.loads(body)["choices"][0]["message"]["content"] == expected
        status, _, body = running.ask("/v1/chat/completions", asking(*[shown] * (MOST_PICTURES + 1), TEXT))
        assert status == 400 and b"33 pictures" in body

        wide = "data:image/png;base64," + base64.b64encode(png(size=(1024, 64))).decode()
        lengths = []
        for detail in ("auto", "high", "low"):
            asked = asking({"type": "image_url", "image_url": {"url": wide, "detail": detail}}, TEXT)
            status, _, body = running.ask("/v1/chat/completions", asked)
            lengths.append(json.loads(body)["usage"]["prompt_tokens"])
        assert status == 200 and lengths[0] == lengths[1] > lengths[2]
        status, _, body = running.ask(
            "/v1/chat/completions", asking({"type": "image_url", "image_url": {"url": URL, "detail": "tiny"}}, TEXT)
        )
        assert status == 400 and b"detail" in body

        photo = tmp_path / "photo.png"
        photo.write_bytes(png())
        content, _ = with_files(f"What? @{photo}")
        published: list[dict[str, Any]] = []
        asked = Ask("one", 0, ({"role": "user", "content": content},))
        AttachedAnswer(Link(running.url), asked, NO_FACTS, lambda **new: published.append(new)).run(lambda: "exact")
        assert published[-1].get("receipt") is not None, published[-1]
        _, _, body = running.ask("/v1/chat/completions", asking(shown, {**TEXT, "text": f"What? @{photo}"}))
        same = json.loads(body)
        assert published[-1]["receipt"].prompt_tokens == same["usage"]["prompt_tokens"]
        assert published[-1]["text"] == same["choices"][0]["message"]["content"]
        photo.unlink()
        AttachedAnswer(Link(running.url), asked, NO_FACTS, lambda **new: published.append(new)).run(lambda: "exact")
        assert "no such file" in published[-1]["error"]
