"""What is refused before the first write leaves nothing, names file and tensor, and leaves the source untouched."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from moe_mlx.cli import main
from moe_mlx.errors import MoeMlxError
from moe_mlx.store.durable import Fs
from moe_mlx_convert import convert
from tests.checkpoints import make_checkpoint
from tests.convert.contents import contents, tensors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("refusals") / "source", shard_bytes=60_000)


@pytest.fixture
def source(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "source"))


def config(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def rewrite(change: Callable[[dict[str, mx.array]], None]) -> Callable[[Path], None]:
    """Rewrites all tensors in one shard after a change."""

    def rewritten(folder: Path) -> None:
        weights = tensors(folder)
        change(weights)
        mx.eval(weights)
        for path in folder.glob("model*"):
            path.unlink()
        mx.save_safetensors(str(folder / "model.safetensors"), weights)

    return rewritten


def cut(folder: Path) -> None:
    path = folder / "model-00002-of-00008.safetensors"
    os.truncate(path, path.stat().st_size - 3)


def stale_index(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.switch_mlp.up_proj.weight"] = "model-00001-of-00008.safetensors"
    path.write_text(json.dumps(index))


def no_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00003-of-00008.safetensors").unlink()


SWITCH = "model.layers.1.mlp.switch_mlp"
REFUSED: dict[str, tuple[int, str, Callable[[Path], object]]] = {
    "dense": (2, "no routed experts", config(num_experts=0)),
    "unknown family": (2, "'gpt2'", config(model_type="gpt2")),
    "no model type": (2, "names no model_type", config(model_type=None)),
    "code of its own": (2, "--trust-remote-code", config(model_file="evil.py")),
    "no top_k": (2, "has no num_experts_per_tok", config(num_experts_per_tok=None)),
    "top_k that is text": (2, "num_experts_per_tok = 'two'", config(num_experts_per_tok="two")),
    "more chosen than there are": (3, "chooses 9 of 4", config(num_experts_per_tok=9)),
    "experts that disagree": (3, "declares 5 experts", config(num_experts=5)),
    "no config": (3, "config.json: no such file", lambda f: (f / "config.json").unlink()),
    "config that is no JSON": (3, "config.json: not JSON", lambda f: (f / "config.json").write_text("{")),
    "config that is a list": (3, "no JSON object", lambda f: (f / "config.json").write_text("[]")),
    "no shards": (3, "model-00001-of-00008", lambda f: [p.unlink() for p in f.glob("*.safetensors")]),
    "missing shard": (
        3,
        "model-00003-of-00008.safetensors: shard is missing; it holds 'model.",
        lambda f: (f / "model-00003-of-00008.safetensors").unlink(),
    ),
    "missing shard, no index": (3, "model-00003-of-00008.safetensors: shard is missing", no_index),
    "dangling link": (
        3,
        "points nowhere",
        lambda f: (
            (f / "model-00003-of-00008.safetensors").unlink(),
            (f / "model-00003-of-00008.safetensors").symlink_to("x"),
        ),
    ),
    "index of another checkpoint": (3, f"{SWITCH.replace('1', '9')}.up_proj.weight' is in no shard", stale_index),
    "truncated shard": (3, "model-00002-of-00008.safetensors: tensor", cut),
    "shard that is text": (
        3,
        "model-00001",
        lambda f: (f / "model-00001-of-00008.safetensors").write_text("not found"),
    ),
    "a tensor missing": (
        3,
        f"{SWITCH}.up_proj.weight is missing",
        rewrite(lambda w: w.pop(f"{SWITCH}.up_proj.weight")),
    ),
    "a layer with fewer experts": (
        3,
        f"{SWITCH}.up_proj.weight has shape",
        rewrite(lambda w: w.update({f"{SWITCH}.up_proj.weight": w[f"{SWITCH}.up_proj.weight"][:3]})),
    ),
    "scales without packed weights": (
        3,
        f"{SWITCH}.up_proj.weight is F32 and its scales are there",
        rewrite(lambda w: w.update({f"{SWITCH}.up_proj.scales": mx.zeros((4, 2))})),
    ),
    "a tensor twice": (
        3,
        "is in model-00001-of-00008.safetensors too",
        lambda f: shutil.copy(f / "model-00001-of-00008.safetensors", f / "model-extra.safetensors"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_first_write(
    case: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message, change = REFUSED[case]
    change(source)
    before = contents(source)
    assert main(["convert", "--model", str(source), "--mlx-path", str(tmp_path / "new" / "store")]) == code
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert contents(source) == before
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_existing_destinations(source: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(MoeMlxError, match="already exists") as caught:
        convert(str(source), tmp_path / "store")
    assert caught.value.exit_code == 2
    assert not list((tmp_path / "store").iterdir())
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(MoeMlxError, match="already exists"):
        convert(str(source), tmp_path / "link")
    with pytest.raises(MoeMlxError, match="inside the checkpoint"):
        convert(str(source), source / "store")
    (tmp_path / "a.partial").write_text("a file")
    with pytest.raises(MoeMlxError, match="in the way"):
        convert(str(source), tmp_path / "a")


def test_a_partial_folder_of_somebody_else_is_not_touched(source: Path, tmp_path: Path) -> None:
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(MoeMlxError, match="not part of this conversion"):
        convert(str(source), tmp_path / "store")
    assert contents(tmp_path / "store.partial") == {"thesis.txt": b"years of work"}


def test_a_partial_folder_with_a_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "experts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MoeMlxError, match="not part of this conversion"):
        convert(str(source), tmp_path / "store")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_sources_that_are_none(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MoeMlxError, match="no such folder, and no hub repository id") as caught:
        convert(str(tmp_path / "nothing"), tmp_path / "store")
    assert caught.value.exit_code == 3
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MoeMlxError, match="the hub gave no snapshot"):
        convert("owner/no-such-model", tmp_path / "store")
    with pytest.raises(MoeMlxError, match="--revision is for hub"):
        convert(str(source), tmp_path / "store", revision="main")
    convert(str(source), tmp_path / "store")
    with pytest.raises(MoeMlxError, match="already a store"):
        convert(str(tmp_path / "store"), tmp_path / "again")


def test_no_room(source: Path, tmp_path: Path) -> None:
    class Full(Fs):
        def free_nbytes(self, folder: Path) -> int:
            return 300_000

    with pytest.raises(MoeMlxError, match="GB are free") as caught:
        convert(str(source), tmp_path / "store", fs=Full())
    assert caught.value.exit_code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_a_second_converter_is_refused(source: Path, tmp_path: Path) -> None:
    partial = tmp_path / "store.partial"
    partial.mkdir()
    fd = os.open(partial, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(MoeMlxError, match="another converter") as caught:
            convert(str(source), tmp_path / "store")
        assert caught.value.exit_code == 2
    finally:
        os.close(fd)
    convert(str(source), tmp_path / "store")


def test_a_trusted_checkpoint_takes_its_code_along(source: Path, tmp_path: Path) -> None:
    config(model_file="model_code.py")(source)
    (source / "model_code.py").write_text("raise SystemExit('run')\n")
    convert(str(source), tmp_path / "store", trust_remote_code=True)
    assert (tmp_path / "store/model_code.py").is_file()


def test_a_name_from_the_hub_is_downloaded(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace()

    def snapshot_download(repo: str, *, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.repo, asked.revision, asked.patterns = repo, revision, allow_patterns
        return str(source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    summary = convert("owner/model", tmp_path / "store", revision="v2")
    assert (asked.repo, asked.revision) == ("owner/model", "v2")
    assert "model*.safetensors" in asked.patterns
    assert summary.source == "owner/model"
