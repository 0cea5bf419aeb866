"""`--parallel auto`: the fastest way that this model can be shared in, and why, in one line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from moe_mlx.catalogue.known import known_named
from moe_mlx.conversation.choosing import pick_way
from moe_mlx.errors import UsageError
from moe_mlx.machines.cost import LINKS, Machines, Outlook, outlooks
from moe_mlx.machines.launched import WAYS
from moe_mlx.planning.prediction import Rates
from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import ranks


@pytest.fixture(scope="module")
def found() -> list[Outlook]:
    known = known_named("Qwen3-235B-A22B")
    assert known is not None
    rates = Rates("m", 273e9 * 0.65, 5e9 * 0.85, 180e-6, "")
    return outlooks(known.shape, Machines((48 * 10**9,) * 2, LINKS["10G"], rates, True, 0), WAYS)


def test_the_fastest_way_is_taken_and_the_others_are_told(found: list[Outlook]):
    way, why = pick_way(found, {}, "10G")
    assert way == "tensor"
    assert why.startswith("--parallel auto takes tensor, ") and "pipeline, " in why and "one machine, " in why
    slow = [replace(one, link=10.0) if one.way == "tensor" else one for one in found]
    assert pick_way(slow, {}, "10G")[0] == "pipeline"
    assert "alone would be faster" not in why
    slower = [replace(one, link=10.0) if one.machines > 1 else one for one in found]
    assert pick_way(slower, {}, "10G")[1].endswith("one machine alone would be faster by these figures")


def test_what_a_model_cannot_do_is_not_taken(found: list[Outlook]):
    way, why = pick_way(found, {"tensor": "no row blocks"}, "10G")
    assert way == "pipeline" and "not tensor: no row blocks" in why
    with pytest.raises(UsageError, match=r"pipeline: none; tensor: neither"):
        pick_way(found, {"pipeline": "none", "tensor": "neither"}, "10G")


def test_where_nothing_fits_by_estimate_the_way_that_holds_more_is_tried(found: list[Outlook]):
    short = [replace(one, why_not="too large", share=0.5 if one.way == "pipeline" else 0.25) for one in found]
    way, why = pick_way(short, {}, "1G")
    assert way == "pipeline" and "pipeline, too large" in why


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "blocks", "way", "because"),
    [
        ("qwen3_moe", 1, "pipeline", "not tensor: the store has 1 row blocks"),
        ("olmoe", 16, "tensor", "not pipeline: mlx-lm has no pipeline for olmoe"),
    ],
)
def test_two_processes_run_what_rank_0_chose(tmp_path: Path, family: str, blocks: int, way: str, because: str):
    tiny_checkpoint(family, tmp_path / "checkpoint", quantization=AFFINE4)
    convert(tmp_path / "checkpoint", tmp_path / "store", row_blocks=blocks)
    words = ["-m", "moe_mlx", "generate", "-p", "the fox", "-m", "8", "--decode", "readback", "--json"]
    words += ["--model", str(tmp_path / "store"), "--parallel", "auto"]
    with ranks(tmp_path, [words] * 2) as group:
        assert [rank.wait() for rank in group] == [0, 0], [rank.said for rank in group]
        lines = [line for line in group[0].said.splitlines() if "--parallel auto takes" in line]
        machines = json.loads(group[0].told)["machines"]
    assert len(lines) == 1 and f"takes {way}, " in lines[0] and because in lines[0]
    assert (machines[0]["layers"] == machines[1]["layers"]) == (way == "tensor")
