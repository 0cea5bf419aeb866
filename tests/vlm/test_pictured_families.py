"""Every family that is shown pictures in the tests: mlx-vlm's tokens, in place and from a store, by policies too."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

import moe_mlx
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import StoreError, UsageError
from moe_mlx.families.registry import families
from moe_mlx.loading.proof import prove
from moe_mlx.vlm.pictures import decode_picture, with_pictures
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4
from tests.families.few import by_day
from tests.families.pictured import PICTURED
from tests.families.pictures import pictured_checkpoint, png
from tests.golden.faithful import check_routing
from tests.vlm_checkpoints import vlm_answer

TOKENS, CHUNK = 8, 16
SHOWN = [decode_picture(png(), "red.png"), decode_picture(png((10, 200, 40), (64, 64)), "green.png")]
ASKED = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What?"}]}]
#: llama4 and zaya1_vl choose one expert a token.
ROUTED = sorted(PICTURED.keys() - {"llama4", "zaya1_vl"})
#: The cheapest; the others run at night.
BY_DAY = ("kimi_vl", "qwen3_vl_moe")
ROWS = [pytest.param(name, None, id=name, marks=() if name in BY_DAY else pytest.mark.slow) for name in PICTURED] + [
    pytest.param(name, AFFINE4, id=f"{name}-4-bit", marks=pytest.mark.slow) for name in PICTURED
]


def theirs(folder: Path, chunk: int | None) -> list[int]:
    """What mlx-vlm answers, by its own loading and its own loop."""
    from mlx_vlm import load, stream_generate
    from mlx_vlm.prompt_utils import apply_chat_template

    model, processor = load(str(folder), trust_remote_code=False)
    prompt = apply_chat_template(processor, model.config, ASKED, num_images=len(SHOWN))
    images = [picture.image for picture in SHOWN]
    stream = stream_generate(
        model, processor, prompt, image=images, max_tokens=TOKENS, temperature=0.0, prefill_step_size=chunk
    )
    return [response.token for response in stream][:TOKENS]


def ours(folder: Path, **options: Any) -> tuple[list[int], Any]:
    options = {"expert_cache": "25%", "routing": "exact", "say": lambda line: None, **options}
    model, tokenizer = moe_mlx.load(folder, pictures=True, **options)
    session = Session(model, tokenizer, Sampling(max_tokens=TOKENS), KVCacheSettings(prefill_step_size=CHUNK))
    for _ in session.answer(session.encode([{"role": "user", "content": with_pictures("What?", SHOWN)}])):
        pass
    assert session.last is not None
    tokens, decode = list(session.last.tokens), moe_mlx.stats(model).decode
    session.runtime.close()
    return tokens, decode


@pytest.mark.parametrize(("name", "quantize"), ROWS)
def test_pictures_give_mlx_vlm_s_tokens(tmp_path: Path, name: str, quantize: Any) -> None:
    folder = pictured_checkpoint(name, tmp_path / "model", quantize)
    row = PICTURED[name]
    expected = theirs(folder, CHUNK if row.chunked else None)
    assert len(expected) == TOKENS
    assert ours(folder, decode="readback")[0] == expected
    if row.stored:
        convert(str(folder), tmp_path / "store", prove=prove, say=lambda line: None)
        assert ours(tmp_path / "store")[0] == expected
    else:
        with pytest.raises(StoreError, match="mlx-lm does not know"):
            convert(str(folder), tmp_path / "store", prove=prove, say=lambda line: None)
    try:
        native = ours(folder, decode="native")[0]
    except UsageError as error:
        pytest.skip(str(error))
    assert native == expected


@pytest.mark.parametrize("name", by_day(ROUTED, BY_DAY))
def test_a_family_that_is_built_for_pictures_routes_by_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = pictured_checkpoint(name, tmp_path / "model")
    options: dict[str, Any] = {"routing": "cache-prior", "route_lambda": 0.9, "decode": "readback"}
    model, _ = moe_mlx.load(folder, expert_cache="50%", pictures=True, say=lambda line: None, **options)
    check_routing(monkeypatch, model, vlm_answer(folder))
    moe_mlx.runtime_of(model).close()


def test_the_table_of_families_names_them() -> None:
    assert {row.family for row in families() if row.pictures == "tested"} == set(PICTURED)
