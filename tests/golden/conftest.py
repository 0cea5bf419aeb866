"""Tiny checkpoints of every family and their reference answers, made once; capped models, closed after each test."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlx_lm.utils import load_model

import moe_mlx
from tests.checkpoints import tiny_checkpoint
from tests.families.calls import Outputs, answer


@pytest.fixture(scope="session")
def family_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A row of tests.families.configs and, if any, how it is quantised -> its folder."""
    root = tmp_path_factory.mktemp("families")

    def make(name: str, quantization: dict[str, Any] | None = None) -> Path:
        folder = root / f"{name}-{json.dumps(quantization)}"
        return folder if folder.exists() else tiny_checkpoint(name, folder, quantization=quantization)

    return make


@pytest.fixture(scope="session")
def reference(family_checkpoint: Callable[..., Path]) -> Callable[..., Outputs]:
    """The same -> what mlx-lm answers."""
    made: dict[Path, Outputs] = {}

    def outputs(name: str, quantization: dict[str, Any] | None = None) -> Outputs:
        folder = family_checkpoint(name, quantization)
        if folder not in made:
            made[folder] = answer(load_model(folder)[0])
        return made[folder]

    return outputs


@pytest.fixture
def capped() -> Iterator[Callable[..., Any]]:
    """A folder, a cap and options of moe_mlx.load -> the model."""
    models = []

    def load(folder: Path, cap: str, **options: Any) -> Any:
        options = {"say": lambda line: None, "decode": "readback", **options}
        models.append(moe_mlx.load(folder, expert_cache=cap, **options)[0])
        return models[-1]

    yield load
    for model in models:
        moe_mlx.runtime_of(model).close()
