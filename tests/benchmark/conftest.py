"""Checkpoints and a store that the measuring commands run on, and a cache folder of their own."""

from pathlib import Path

import pytest

from moe_mlx.rig.random_store import SHAPES, make_checkpoint
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Calibration of the person who runs the tests is neither read nor written."""
    path = tmp_path / "xdg" / "calibration.json"
    monkeypatch.setattr("moe_mlx.system.calibration.calibration_path", lambda: path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("qwen3_moe", tmp_path_factory.mktemp("bench") / "tiny", quantization=AFFINE4)


@pytest.fixture(scope="session")
def store(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench-store") / "store"
    convert(str(checkpoint), str(folder))
    return folder


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    make_checkpoint(SHAPES["tiny"], folder)
    return folder
