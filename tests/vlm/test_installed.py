"""What is said where mlx-vlm is not there, or another version of it."""

import json
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.errors import UnsupportedModelError
from moe_mlx.vlm import installed
from tests.checkpoints import make_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint whose config names a family that only mlx-vlm has."""
    folder = make_checkpoint(tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "flint"}))
    return folder


@pytest.mark.parametrize(
    ("found", "words"), [(None, "not installed"), ("0.7.9", "0.7.9, and 0.7.10 is what")], ids=["none", "another"]
)
def test_what_to_install_is_said(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, found: Any, words: str) -> None:
    monkeypatch.setattr(installed, "installed", lambda: found)
    with pytest.raises(UnsupportedModelError, match="flint") as raised:
        moe_mlx.load(_as_mlx_vlm_names(checkpoint))
    assert words in str(raised.value) and 'pip install "moe-mlx[vlm]"' in str(raised.value)


def test_a_plan_says_which_library_without_it(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installed, "installed", lambda: None)
    assert main(["inspect", str(_as_mlx_vlm_names(checkpoint)), "--json"]) in (0, 2, 3)
    shown = capsys.readouterr()
    assert "mlx-vlm" in shown.out + shown.err


def _as_mlx_vlm_names(folder: Path) -> Path:
    """Gives the tensors the names of mlx-vlm's layout."""
    import mlx.core as mx

    path = folder / "model.safetensors"
    weights = mx.load(str(path))
    mx.save_safetensors(str(path), {f"language_model.{name}": value for name, value in weights.items()})
    (folder / "model.safetensors.index.json").unlink()
    return folder


def test_tables_outside_of_the_folder_are_refused() -> None:
    pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")
    from moe_mlx.vlm.building import checked_config

    text = {"ple_storage": {"manifest": "/etc/passwd"}}
    with pytest.raises(UnsupportedModelError, match="n-gram tables"):
        checked_config(Path("model"), {"model_type": "qwen4_exp", "text_config": text})
    with pytest.raises(UnsupportedModelError, match="gliner"):
        checked_config(Path("model"), {"model_type": "flint", "architectures": ["BoundaryExtractor"]})
    assert "model_file" not in checked_config(Path("model"), {"model_type": "flint", "model_file": "evil.py"})
