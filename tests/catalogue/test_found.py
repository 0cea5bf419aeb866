"""Models are found where people keep them, each with what is wrong with it if something is."""

import json
import os
import shutil
from pathlib import Path

import pytest

from moe_mlx.catalogue.found import find_models
from moe_mlx.cli import main
from moe_mlx.rig.random_store import Shape, make_checkpoint
from moe_mlx_convert import convert


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """owner/checkpoint, a store beside it, one damaged, one dense, one unfinished, and what is no model."""
    top = tmp_path_factory.mktemp("models")
    checkpoint = top / "owner" / "checkpoint"
    make_checkpoint(Shape(2, 8, 2, 128, 64, 2, 1, 32, 128), checkpoint)
    convert(str(checkpoint), top / "store")
    shutil.copytree(checkpoint, top / "damaged")
    shard = next((top / "damaged").glob("*.safetensors"))
    os.truncate(shard, 40)
    shutil.copytree(top / "store", top / "store2.partial")
    dense = top / "dense"
    dense.mkdir()
    (dense / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2}')
    (top / "notes").mkdir()
    (top / "notes" / "read.txt").write_text("no model")
    return top


@pytest.fixture
def cache(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache with the checkpoint, a dense model and half a download."""
    for name, source in (("models--mlx--experts", "owner/checkpoint"), ("models--mlx--dense", "dense")):
        snapshot = tmp_path / name / "snapshots" / "0123abc"
        blobs = tmp_path / name / "blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for number, path in enumerate(sorted((made / source).iterdir())):
            shutil.copyfile(path, blobs / str(number))
            (snapshot / path.name).symlink_to(f"../../blobs/{number}")
        (tmp_path / name / "refs").mkdir()
        (tmp_path / name / "refs" / "main").write_text("0123abc")
    shutil.copytree(tmp_path / "models--mlx--experts", tmp_path / "models--mlx--half", symlinks=True)
    next((tmp_path / "models--mlx--half" / "snapshots" / "0123abc").glob("*.safetensors")).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_every_mixture_of_experts_is_found(made: Path, cache: Path):
    found = {entry.name: entry for entry in find_models([made, made / "store", made / "nowhere"])}
    assert next(iter(found)) == "demo"
    assert {"checkpoint", "store", "damaged", "mlx/experts", "mlx/half"} <= set(found)
    assert not {"dense", "mlx/dense", "notes"} & set(found)
    store, damaged = found["store"], found["damaged"]
    assert (store.form, store.problem, store.place, store.model) == ("store", "", "folder", str(made / "store"))
    assert found["checkpoint"].form == "checkpoint" and found["mlx/experts"].model == "mlx/experts"
    assert damaged.shape is None and str(made / "damaged") in damaged.problem
    assert found["store2.partial"].problem and found["mlx/half"].problem
    assert store.nbytes == found["checkpoint"].nbytes > 0


def test_list_shows_them_and_the_known_ones(made: Path, cache: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["list", str(made), "--memory", "16GB", "--chip", "m1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    here = {row["name"]: row for row in told["here"]}
    assert here["store"]["fits"] and here["store"]["share"] == 1.0 and here["damaged"]["problem"]
    known = {row["name"]: row for row in told["known"]}
    assert len(known) == 10 and not known["Kimi-K2"]["fits"] and 0 < known["Qwen3-30B-A3B"]["share"] < 1
    assert main(["list", str(made), "--memory", "16GB"]) == 0
    shown = capsys.readouterr()
    assert "mlx/experts" in shown.out and "all of it" in shown.out and "too large" in shown.out
    assert "damaged: " in shown.err
    assert max(map(len, shown.out.splitlines())) <= 120


def test_folders_come_from_the_config_file(made: Path, cache: Path, tmp_path: Path, monkeypatch, capsys):
    path = tmp_path / "config.toml"
    path.write_text(f"folders = [{str(made)!r}]\n")
    monkeypatch.setenv("MOE_MLX_CONFIG", str(path))
    assert main(["list"]) == 0
    assert "store" in capsys.readouterr().out
