"""What `--draft-model` takes and refuses, by the command itself."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from mlx_lm import load as load_whole

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.drafting.opening import check_cut, with_draft
from moe_mlx.errors import UsageError
from moe_mlx.store.demo import demo_path
from tests.checkpoints import tiny_checkpoint

GENERATE = ("generate", "--no-history", "--decode", "readback", "-m", "24", "-p", "Tell me a story about a fox.")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([*GENERATE, *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_says_what_came_of_the_drafts(capsys: pytest.CaptureFixture[str]):
    code, out, err = said(capsys, "--draft-model", "demo", "--json")
    assert code == 0, err
    drafted = json.loads(out)
    assert drafted["receipt"]["drafts"]["accepted"] == drafted["receipt"]["drafts"]["drafted"] > 0
    assert drafted["routing"] == "exact"  # the default is another
    _, out, _ = said(capsys, "--routing", "exact", "--json")
    plain = json.loads(out)
    assert plain["tokens"] == drafted["tokens"] and plain["receipt"]["drafts"] is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--routing", "cache-prior"), "--routing would hold for some tokens"),
        (("--route-lambda", "0.3"), "--route-lambda would hold"),
        (("--light", "late"), "--light would hold"),
        (("--audit", "4"), "leave --audit out"),
        (("--max-kv-size", "64"), "--max-kv-size makes a cache that cannot be cut back"),
        (("--quality", "0.01"), "which drafts replace"),
    ],
)
def test_what_drafts_cannot_stand_beside(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], why: str):
    code, out, err = said(capsys, "--draft-model", "demo", *words)
    assert (code, out) == (2, "") and why in err


@pytest.mark.parametrize(("family", "kind"), [("qwen3_next", "ArraysCache"), ("gpt_oss", "RotatingKVCache")])
def test_a_family_whose_cache_cannot_be_cut_back_is_refused_by_name(family: str, kind: str, tmp_path: Path):
    model = load_whole(str(tiny_checkpoint(family, tmp_path / family)))[0]
    with pytest.raises(UsageError, match=rf"{family}'s cache cannot be cut back.*{kind}"):
        check_cut(model, family, None)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path):
    other = tiny_checkpoint("qwen3_moe", tmp_path / "other")
    model, tokenizer = moe_mlx.load("demo", routing="exact", decode="readback", say=lambda line: None)
    args: dict[str, Any] = {"draft_model": str(other), "num_draft_tokens": 3}
    _, wish = with_draft(Namespace(**args))
    assert wish is not None
    with pytest.raises(UsageError, match="its tokenizer is not the model's"):
        wish.open(model, tokenizer)
    moe_mlx.runtime_of(model).close()


def test_what_a_draft_model_takes_is_planned_for():
    args, _ = with_draft(Namespace(draft_model="demo", num_draft_tokens=3, max_kv_size=None))
    assert args.beside > sum(path.stat().st_size for path in demo_path().glob("model*.safetensors"))
