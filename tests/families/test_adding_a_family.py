"""CONTRIBUTING.md's way to add a family, followed with a family that is made up: a copy of a model file of mlx-lm."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx_lm.models
import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.errors import UnsupportedModelError
from moe_mlx.families.blocks import SITES
from moe_mlx.families.registry import families
from moe_mlx.store.families import FAMILIES
from moe_mlx_convert import convert
from tests.checkpoints import tiny_checkpoint
from tests.families import configs
from tests.families.calls import answer, same
from tests.families.scan import moe_model_files

MADE_UP, MODEL = "made_up", "olmoe"
GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def model_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """mlx-lm with one more MoE file."""
    code = (Path(mlx_lm.models.__path__[0]) / f"{MODEL}.py").read_text(encoding="utf-8").replace("Olmoe", "MadeUp")
    module = ModuleType(f"mlx_lm.models.{MADE_UP}")
    module.__package__ = "mlx_lm.models"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, module.__name__, "exec"), module.__dict__)
    yield


@pytest.fixture
def checkpoint(model_file: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Step 4: a tiny configuration."""
    monkeypatch.setitem(configs.FAMILIES, MADE_UP, configs.FAMILIES[MODEL])
    return tiny_checkpoint(MADE_UP, tmp_path / "checkpoint")


def load(folder: Path, **options: Any) -> Any:
    return moe_mlx.load(folder, expert_cache="50%", say=lambda line: None, **options)[0]


def test_the_steps_make_a_family(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=MADE_UP):
        load(checkpoint)

    monkeypatch.setitem(FAMILIES, MADE_UP, FAMILIES[MODEL])  # step 1
    reference = answer(load_model(checkpoint)[0])
    assert same(reference, answer(load(checkpoint, routing="exact")))
    unknown: list[str] = []
    moe_mlx.load(checkpoint, expert_cache="50%", routing="cache-prior", say=unknown.append)
    assert any(MADE_UP in line and "exactly" in line for line in unknown), unknown

    monkeypatch.setitem(SITES, MADE_UP, replace(SITES[MODEL], block="MadeUpSparseMoeBlock"))  # steps 2 and 3
    assert MADE_UP in {row.family for row in families()}
    convert(str(checkpoint), tmp_path / "store")
    for folder in (checkpoint, tmp_path / "store"):
        assert same(reference, answer(load(folder, routing="exact")))
        model = load(folder, routing="cache-prior", route_lambda=0.9)
        assert not same(reference, answer(model))
        assert moe_mlx.stats(model).decode.swapped > 0


def test_a_new_model_file_is_found(tmp_path: Path) -> None:
    """Before step 1 the file fails the tests by its name: it is found by what it imports."""
    (tmp_path / f"{MADE_UP}.py").write_text("from .switch_layers import SwitchGLU\n")
    (tmp_path / "dense.py").write_text("import mlx\n")
    assert moe_model_files(tmp_path) == {MADE_UP}


def test_every_table_that_the_guide_names_is_there() -> None:
    section = GUIDE.read_text(encoding="utf-8").split("## Adding a family")[1].split("\n## ")[0]
    tables = re.findall(r"`([A-Z_]+)` in\s+`([\w/]+)\.py`", section)
    assert {name for name, _ in tables} == {"FAMILIES", "SITES", "BUILT_ON", "UNTESTED"}
    for name, path in tables:
        assert isinstance(getattr(import_module(path.replace("/", ".")), name), dict), (name, path)
