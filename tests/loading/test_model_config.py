"""Overrides of the config: what is planned, refused and run is the overridden model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx_lm
import pytest

import moe_mlx
from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx_convert import convert
from tests.checkpoints import tiny_checkpoint
from tests.families.calls import answer, same
from tests.families.configs import EXPERTS, TOP_K


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("override")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint")
    convert(str(folder / "checkpoint"), folder / "store")
    return folder


def load(folder: Path, chosen: int, cap: str | int, **options: Any) -> Any:
    model, _ = moe_mlx.load(
        folder,
        expert_cache=cap,
        say=lambda line: None,
        model_config={"num_experts_per_tok": chosen},
        **{"routing": "exact", "decode": "readback", **options},
    )
    return model


@pytest.mark.rows_by_day(6)
@pytest.mark.parametrize("form", ["store", "checkpoint"])
@pytest.mark.parametrize("chosen", [1, TOP_K - 1, TOP_K + 3, EXPERTS])
@pytest.mark.parametrize("decode", ["readback", "native"])
def test_the_floor_and_the_answer_are_those_of_the_experts_chosen(
    form: str, chosen: int, decode: str, made: Path
) -> None:
    folder = made / form
    model = load(folder, chosen, f"{100 * chosen / EXPERTS}%", decode=decode)
    runtime = moe_mlx.runtime_of(model)
    assert set(runtime.slots_per_layer) == {chosen}
    expected, _ = mlx_lm.load(str(made / "checkpoint"), model_config={"num_experts_per_tok": chosen})
    assert same(answer(model), answer(expected))
    floor = chosen * sum(layer.expert_nbytes for layer in runtime.source.layers)
    runtime.close()
    with pytest.raises(DoesNotFitError, match=r"top_k experts a layer"):
        load(folder, chosen, floor - 1)


@pytest.mark.parametrize("chosen", [0, EXPERTS + 1, -2])
def test_no_model_chooses_that_many(chosen: int, made: Path) -> None:
    with pytest.raises(UsageError):
        load(made / "store", chosen, "50%")
