"""A model whose numbers are none says so, and where they first are none: no empty answer, no exit code 0."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.conversation.not_finite import is_number
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.errors import NotFiniteError
from moe_mlx.serving.refusal import refusal_of
from tests.checkpoints import tiny_checkpoint

ROUTED = "model.layers.{}.mlp.switch_mlp.down_proj.weight"


def poisoned(folder: Path, *places: tuple[str, int]) -> Path:
    """Makes a checkpoint with one number of each of these rows not a number."""
    tiny_checkpoint("qwen3_moe", folder)
    (shard,) = folder.glob("*.safetensors")
    weights = dict(mx.load(str(shard)))
    for name, row in places:
        flat = weights[name]
        flat[row] = mx.full(flat.shape[1:], float("nan"))
        weights[name] = flat
    mx.eval(weights)
    data = {name: mx.array(array) for name, array in weights.items()}
    mx.save_safetensors(str(shard), data, {"format": "mlx"})
    for index in folder.glob("*.index.json"):
        index.unlink()
    return folder


def answer(folder: Path, **options: str) -> None:
    model, tokenizer = moe_mlx.load(folder, say=lambda line: None, **options)
    for _ in Session(model, tokenizer, Sampling(max_tokens=8)).answer(list(range(5, 60))):
        pass


@pytest.mark.parametrize("decode", ["readback", "native"])
@pytest.mark.parametrize("cap", ["50%", "100%"])
def test_the_first_expert_that_is_none_is_named(decode: str, cap: str, tmp_path: Path):
    every = [(ROUTED.format(2), row) for row in range(16)]
    folder = poisoned(tmp_path / "m", *every)
    with pytest.raises(NotFiniteError, match=r"token 1 of the answer.* layer 2, expert \d+ \(down_proj.weight\)"):
        answer(folder, expert_cache=cap, decode=decode)


def test_the_weight_before_it_is_named_instead(tmp_path: Path):
    folder = poisoned(tmp_path / "m", ("model.layers.1.self_attn.q_proj.weight", 0), (ROUTED.format(2), 3))
    with pytest.raises(NotFiniteError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight") as found:
        answer(folder, expert_cache="100%", decode="readback")
    refusal = refusal_of(found.value)
    assert refusal.status == 500 and "not finite" in json.dumps(refusal.openai())


def test_generate_ends_with_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = poisoned(tmp_path / "m", ("model.norm.weight", 0))
    assert (
        main(["generate", "--model", str(folder), "-p", "hello", "--expert-cache", "100%", "--decode", "readback"]) == 1
    )
    out, err = capsys.readouterr()
    assert out.strip() == "" and "not finite" in err and "model.norm.weight" in err


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_every_type_of_logits_is_read(dtype: mx.Dtype):
    logprobs = mx.array([0.5, float("nan"), float("-inf"), -3.0, float("inf")]).astype(dtype)
    assert [is_number(logprobs, token) for token in range(5)] == [True, False, True, True, True]
