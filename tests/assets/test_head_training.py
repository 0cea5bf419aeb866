"""What trains a prediction head: grouped experts are the switch's, and what is saved is taken apart and drafts."""

import json
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from head_training.grouped import GroupedExperts
from mlx import nn
from mlx_lm.models.switch_layers import SwitchGLU

EXPERTS, TOP_K = 8, 2


@pytest.fixture
def switch() -> SwitchGLU:
    mx.random.seed(3)
    return SwitchGLU(32, 16, EXPERTS)


@pytest.fixture
def rows() -> tuple[mx.array, mx.array]:
    """Inputs `[2, 30, 32]`, and two different experts for each; one expert gets far more than the others."""
    first = mx.where(
        mx.arange(60).reshape(2, 30) % 3 == 0, 5, mx.random.randint(0, EXPERTS, (2, 30), key=mx.random.key(1))
    )
    second = (first + 1 + mx.random.randint(0, EXPERTS - 1, (2, 30), key=mx.random.key(2))) % EXPERTS
    return mx.random.normal((2, 30, 32), key=mx.random.key(0)), mx.stack([first, second], axis=-1)


def test_grouped_experts_compute_what_the_switch_does(switch: SwitchGLU, rows: tuple[mx.array, mx.array]):
    grouped = GroupedExperts(switch, room=EXPERTS)
    assert mx.allclose(grouped(*rows), switch(*rows), atol=1e-6)
    assert grouped.load.tolist() == [int((rows[1] == expert).sum()) for expert in range(EXPERTS)]
    assert grouped.left_out == 0

    def total(module: nn.Module, x: mx.array) -> mx.array:
        return (module(x, rows[1]) ** 2).sum()

    ours, theirs = (mx.grad(lambda x, one=module: total(one, x))(rows[0]) for module in (grouped, switch))
    assert mx.allclose(ours, theirs, atol=1e-5)


def test_rows_without_room_add_nothing_and_are_counted(switch: SwitchGLU, rows: tuple[mx.array, mx.array]):
    grouped = GroupedExperts(switch, room=1.0)
    out, whole = grouped(*rows), switch(*rows)
    missing = mx.all(out == 0, axis=-1)
    assert grouped.left_out == missing.sum() == mx.maximum(grouped.load - 15, 0).sum() > 0
    assert mx.allclose(out, mx.where(missing[..., None], 0, whole), atol=1e-6)


@pytest.mark.slow
def test_what_is_trained_is_taken_apart_and_drafts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")
    import train_head
    from mlx_vlm.split_mtp import split_mtp

    from moe_mlx.cli import main

    words = ["--steps", "3", "--rows", "2", "--length", "48"]
    monkeypatch.setattr(sys, "argv", ["train_head.py", "--run", str(tmp_path / "run"), *words])
    train_head.main()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1]["loss"] > 0 and told[-1]["head's loss"] > 0
    head, store = split_mtp(str(tmp_path / "run"), str(tmp_path / "head")), tmp_path / "store"
    assert main(["convert", "--model", str(tmp_path / "run"), "--mlx-path", str(store)]) == 0
    capsys.readouterr()
    command = f"generate --model {store} --expert-cache 50% --routing exact -p hi --max-tokens 12 --no-history --json"
    answers = []
    for more in ([], ["--draft-model", str(head)]):
        assert main([*command.split(), *more]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0]["text"] == answers[1]["text"]
    assert answers[1]["receipt"]["drafts"]["drafted"] > 0
