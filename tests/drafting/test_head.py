"""A multi-token-prediction head that was trained with its model: the model's own tokens, fewer steps."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

import moe_mlx
from moe_mlx.drafting.drafting import Drafting
from moe_mlx.drafting.gate import Gate
from moe_mlx.drafting.opening import with_draft
from moe_mlx.drafting.steps import DraftedSteps
from moe_mlx.errors import UsageError
from tests.checkpoints import tiny_checkpoint
from tests.prediction_heads import PROMPT, trained_head

TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("glm_moe_dsa", tmp_path_factory.mktemp("glm") / "model")


@pytest.fixture(scope="module")
def heads(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("heads")
    return {steps: trained_head(folder, root / str(steps), steps) for steps in (0, 60)}


@pytest.fixture(scope="module")
def theirs(folder: Path) -> list[int]:
    model, _ = load_model(folder)
    return [token for token, _ in generate_step(mx.array(PROMPT), model, max_tokens=TOKENS)]


def drafted(folder: Path, head: Path, gate: Gate, **wish: Any) -> tuple[list[int], Drafting]:
    model, tokenizer = moe_mlx.load(
        folder, expert_cache="75%", routing="exact", decode="readback", say=lambda line: None
    )
    args = {"draft_model": str(head), "num_draft_tokens": None, "max_kv_size": 256, **wish}
    args, found = with_draft(Namespace(**args))
    assert found is not None and args.beside > (head / "model.safetensors").stat().st_size - 8192
    drafting = found.open(model, tokenizer)
    drafting.gate = gate
    cache = make_prompt_cache(model)
    steps = DraftedSteps(
        drafting, model, (), prompt_cache=cache, sampler=lambda x: mx.argmax(x, axis=-1), max_tokens=TOKENS
    )
    made = [token for token, *_ in steps.run(mx.array(PROMPT), lambda done, total: None)]
    moe_mlx.runtime_of(model).close()
    return made, drafting


@pytest.mark.slow
def test_the_tokens_are_the_model_s_and_training_makes_them_come_in_fewer_steps(
    folder: Path, heads: dict[int, Path], theirs: list[int]
):
    rates = {}
    for steps, head in heads.items():
        made, drafting = drafted(folder, head, Gate.held_open())
        assert made == theirs, steps
        counts = drafting.counts
        assert drafting.count == 1 and counts.drafted == counts.rounds
        rates[steps] = counts.accepted / counts.drafted
    assert rates[60] > 0.6 > rates[0]


def test_with_the_gate_at_work_and_more_drafts_than_it_was_made_for(
    folder: Path, heads: dict[int, Path], theirs: list[int]
):
    made, drafting = drafted(folder, heads[60], Gate(), num_draft_tokens=3)
    assert made == theirs
    assert drafting.gate.trials == 1 and drafting.counts.accepted > drafting.counts.rounds


def test_a_head_of_another_family_is_refused_by_name(heads: dict[int, Path], tmp_path: Path):
    other = tiny_checkpoint("qwen3_moe", tmp_path / "other")
    model, tokenizer = moe_mlx.load(other, expert_cache="100%", decode="readback", say=lambda line: None)
    _, wish = with_draft(Namespace(draft_model=str(heads[0]), num_draft_tokens=None))
    assert wish is not None
    with pytest.raises(UsageError, match=r"glm_moe_dsa_mtp.*does not draft for qwen3_moe"):
        wish.open(model, tokenizer)
    moe_mlx.runtime_of(model).close()


def test_code_that_a_head_brings_is_not_run(heads: dict[int, Path], folder: Path, theirs: list[int], tmp_path: Path):
    brought = tmp_path / "head"
    brought.mkdir()
    config = json.loads((heads[60] / "config.json").read_text())
    (brought / "config.json").write_text(json.dumps({**config, "model_file": "own.py"}))
    (brought / "own.py").write_text("raise SystemExit(9)")
    (brought / "model.safetensors").symlink_to(heads[60] / "model.safetensors")
    assert drafted(folder, brought, Gate.held_open())[0] == theirs


def test_what_mlx_vlm_splits_off_a_checkpoint_is_the_same_head(
    folder: Path, heads: dict[int, Path], theirs: list[int], tmp_path: Path
):
    from mlx_vlm.split_mtp import split_mtp

    published = tmp_path / "published"
    published.mkdir()
    config = json.loads((folder / "config.json").read_text())
    layer = f"model.layers.{config['num_hidden_layers']}"
    tensors: dict[str, mx.array] = {}
    for name, value in mx.load(str(heads[60] / "model.safetensors")).items():
        own = name.removeprefix("mtp.").replace("shared_head_norm", "shared_head.norm")
        if ".switch_mlp." in own:
            for expert in range(value.shape[0]):
                tensors[f"{layer}.{own.replace('switch_mlp', f'experts.{expert}')}"] = value[expert]
        else:
            tensors[f"{layer}.{own}"] = value
    mx.save_safetensors(str(published / "model.safetensors"), tensors)
    config |= {"num_nextn_predict_layers": 1, "index_topk": 4096}
    (published / "config.json").write_text(json.dumps(config))
    split = split_mtp(str(published), str(tmp_path / "split"))
    made, drafting = drafted(folder, split, Gate.held_open())
    assert made == theirs and drafting.count == 1
    assert drafting.counts.accepted == drafting.counts.drafted > TOKENS // 3
