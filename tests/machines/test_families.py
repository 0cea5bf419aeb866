"""Every family that mlx-lm can pipeline, over two processes: tokens, logits and counts of one, bit for bit."""

import copy
import inspect
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from mlx_lm import utils
from mlx_lm.models.cache import make_prompt_cache

from moe_mlx.errors import UsageError
from moe_mlx.families.registry import UNTESTED
from moe_mlx.machines.part import Part, pipelined
from tests.checkpoints import AFFINE4, fill_constants, make_checkpoint
from tests.families.configs import FAMILIES, UNQUANTISED, config
from tests.machines.ranks import LIMIT, ROOT, ranks

WORDS = ("--routing", "exact", "--expert-cache", "50%", "--max-tokens", "6")


def deepened(family: str) -> dict[str, Any]:
    """Returns a family's tiny config with a layer more, so that halves of it have experts on both sides."""
    found = copy.deepcopy(config(family))
    for table in (found, *(value for value in found.values() if isinstance(value, dict))):
        if "num_hidden_layers" in table:
            table["num_hidden_layers"] = 4
    return found


def stack_of(family: str) -> Any:
    """Returns what mlx-lm pipelines of a family; None where it pipelines none of it."""
    found = copy.deepcopy(config(family))
    model, arguments = utils._get_classes(found)
    try:
        return pipelined(model(arguments.from_dict(found)), family)
    except UsageError:
        return None


def documented() -> set[str]:
    """Returns the families that the page says can be pipelined."""
    text = (ROOT / "docs" / "machines.md").read_text()
    (words,) = re.findall(r"<!-- families of pipeline -->(.*?)<!-- end -->", text, re.DOTALL)
    return set(re.findall(r"`(\w+)`", words))


RUN = sorted(documented() - set(UNTESTED))


def test_the_page_names_every_family_that_mlx_lm_pipelines():
    assert documented() == {name for name in FAMILIES if "+" not in name and stack_of(name) is not None}


class Rank:
    """What a group is to one of two ranks."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_has_caches_for_its_own_layers_alone(rank: int):
    """Some wrappers of mlx-lm name every layer, and mlx-lm would hang a message on a cache that no layer fills."""
    for family in RUN:
        found = copy.deepcopy(config(family))
        kind, arguments = utils._get_classes(found)
        model = kind(arguments.from_dict(found))
        held = Part(Rank(rank), (1, 1), None, lambda about, words: [words]).narrow(model, family)
        assert 0 < len(held) < len(stack_of(family).layers), family
        assert len(make_prompt_cache(model)) == len(held), family
        assert isinstance(model, kind), family


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Each family's answers alone and over two processes, and what rank 0 said."""
    folder = tmp_path_factory.mktemp("families")
    words = []
    for name in RUN:
        even = "split" not in inspect.signature(stack_of(name).pipeline).parameters
        quantize = None if name in UNQUANTISED else AFFINE4
        found = deepened(name) if even else config(name)
        make_checkpoint(folder / name, found, quantize=quantize, fill=fill_constants)
        words.append(name if even else f"{name}=1,2")
    command = ["-m", "tests.machines.family_answers", str(folder), *words, "--", *WORDS]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=3 * LIMIT, check=True)
    with ranks(folder, [[*command, "--parallel", "pipeline"]] * 2) as group:
        for rank in group:
            rank.wait(3 * LIMIT)
        told, said = group[0].told, group[0].said
    return by_family(done.stdout), by_family(told), said


def by_family(text: str) -> dict[str, Any]:
    return {row["family"]: row["answers"] for row in map(json.loads, text.splitlines())}


@pytest.mark.slow
@pytest.mark.parametrize("family", RUN)
def test_two_processes_answer_as_one(both: tuple[dict[str, Any], dict[str, Any], str], family: str):
    alone, together, said = both
    assert family in together, said
    for ours, theirs in zip(together[family], alone[family], strict=True):
        machines = ours.pop("machines")
        assert {**ours, "machines": [], "residency": theirs["residency"]} == theirs
        assert len(machines) == 2 and len(ours["tokens"]) == 6 and ours["hits"] + ours["misses"]
