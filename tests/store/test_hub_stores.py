"""Stores in the hub's cache, where a snapshot is a folder of links: opened as any other, and never through a link."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

import moe_mlx
from moe_mlx.errors import StoreCorruptError, StoreError, StoreMissingError, UsageError
from moe_mlx.store import open_source
from moe_mlx.store.demo import demo_path
from moe_mlx.store.hub_snapshot import real_store
from moe_mlx.store.resolve import PATTERNS, NamedModel, find_model
from moe_mlx_convert import convert, upgrade, verify
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.fixture(scope="module", params=[{}, {"nested": True, "row_blocks": 2}], ids=["version 1", "version 2"])
def store(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("made")
    checkpoint = tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    for name in ("LICENSE", "README.md"):
        (checkpoint / name).write_text(name)
    convert(checkpoint, folder / "store", **request.param)
    return folder / "store"


@pytest.fixture
def snapshot(store: Path, tmp_path: Path) -> Path:
    """A repository as huggingface-hub's cache keeps it after downloading our patterns."""
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "blobs").mkdir(parents=True)
    names = [str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()]
    for name in filter_repo_objects(names, allow_patterns=PATTERNS):
        blob = repository / "blobs" / hashlib.sha256((store / name).read_bytes()).hexdigest()
        shutil.copyfile(store / name, blob)
        link = repository / "snapshots" / "0123abc" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repository / "snapshots" / "0123abc"


def test_it_answers_and_is_verified_and_takes_no_second_disk(
    snapshot: Path, store: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: str(snapshot))
    model, _ = moe_mlx.load("owner/name", expert_cache="50%", say=lambda line: None)
    source = moe_mlx.runtime_of(model).source
    assert not source.in_place and source.resident_shards[0].parent.name == "name"
    assert verify(snapshot).ok
    files = [path for path in source.resident_shards[0].parent.rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == sorted(path.name for path in store.rglob("*") if path.is_file())
    assert all(path.stat().st_nlink > 1 and not path.is_symlink() for path in files)
    moe_mlx.runtime_of(model).close()


def test_what_was_made_is_used_again_and_follows_the_snapshot(snapshot: Path):
    place = real_store(snapshot)
    made = place.stat().st_ino
    assert real_store(snapshot) == place and place.stat().st_ino == made
    (snapshot / "README.md").unlink()
    assert real_store(snapshot) == place and not (place / "README.md").exists()
    assert [path.name for path in place.parent.iterdir()] == [place.name]


HARMS: dict[str, tuple[Callable[[Path], object], type[StoreError]]] = {
    "not all has arrived": (lambda link: link.resolve().unlink(), StoreMissingError),
    "a link elsewhere": (lambda link: (link.unlink(), link.symlink_to("/etc/hostname")), StoreCorruptError),
    "a link to a folder": (lambda link: (link.unlink(), link.symlink_to("../../..")), StoreCorruptError),
    "a file of its own": (lambda link: link.write_bytes((link.unlink(), b"x")[1]), StoreCorruptError),
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("name", ["config.json", "experts/layer-001/expert-003.safetensors"])
def test_links_lead_to_the_repository_s_own_blobs(snapshot: Path, harm: str, name: str):
    act, error = HARMS[harm]
    act(snapshot / name)
    with pytest.raises(error, match=name):
        open_source(snapshot)
    assert not (snapshot.parent.parent / "moe-mlx").exists()


def test_links_in_any_other_folder_stay_refused(snapshot: Path, tmp_path: Path):
    moved = Path(shutil.copytree(snapshot, tmp_path / "hub" / "models--owner--name" / "store", symlinks=True))
    for path in [*moved.rglob("*")]:
        if path.is_symlink():
            target = next((snapshot.parent.parent / "blobs").iterdir())
            path.unlink()
            path.symlink_to(target)
    with pytest.raises(StoreCorruptError, match="symbolic link"):
        open_source(moved)


def test_where_no_second_name_can_be_had_the_next_step_is_named(snapshot: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match="--local-dir"):
        open_source(snapshot)
    assert not [*(snapshot.parent.parent / "moe-mlx").rglob("*.partial")]


def test_a_name_is_found_with_what_it_is_called(tmp_path: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **options: str(snapshot))
    found = find_model(snapshot)
    assert (found.name, found.revision) == ("owner/name", snapshot.name)
    assert find_model("owner/name", cached=True) == found
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert find_model("mine") == NamedModel(Path("mine"), "mine", None)
    assert find_model("demo").folder == demo_path()
    (tmp_path / "demo").mkdir()
    assert find_model("demo").folder == Path("demo"), "a folder here comes first"


def test_an_upgrade_of_a_store_in_the_cache_goes_elsewhere(snapshot: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --mlx-path a folder"):
        upgrade(snapshot, nested=True)
    with pytest.raises(UsageError, match="where nothing is replaced"):
        upgrade(snapshot, tmp_path / "two", nested=True, replace=True)
    assert upgrade(snapshot, tmp_path / "two", nested=True).version == 2
    assert verify(tmp_path / "two").ok
