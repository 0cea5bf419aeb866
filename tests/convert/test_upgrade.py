"""A store upgraded beside itself, and in its own place: whatever happens on the way, one whole store is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from moe_mlx.errors import MoeMlxError, StoreCorruptError, UsageError
from moe_mlx.store.durable import Fs
from moe_mlx.store.store import read_manifest
from moe_mlx_convert import ConvertError, convert, upgrade, verify
from moe_mlx_convert.replacing import ASIDE
from tests.checkpoints import make_checkpoint
from tests.convert.contents import contents
from tests.damage import flip
from tests.fault.faults import ERRNOS, CountingFs, FaultyFs, PowerLoss, fast_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of version 1 and what becomes of it."""
    folder = tmp_path_factory.mktemp("upgrade")
    make_checkpoint(folder / "source", quantize={"group_size": 32, "bits": 4}, num_hidden_layers=1)
    convert(str(folder / "source"), folder / "one")
    convert(str(folder / "source"), folder / "two", nested=True)
    convert(str(folder / "source"), folder / "rows", row_blocks=4)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "one", tmp_path / "store"))


def test_in_the_place_of_the_old_one(made: Path, store: Path) -> None:
    summary = upgrade(store, nested=True, replace=True)
    assert (summary.destination, summary.version) == (str(store), 2)
    assert contents(store) == contents(made / "two")
    assert [path.name for path in store.parent.iterdir()] == ["store"]
    with pytest.raises(UsageError, match="already of version 2"):
        upgrade(store, nested=True, replace=True)


class Unplugged(CountingFs):
    """Loses power before operation `at`, for good."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def meddle(self, number: int, name: str) -> None:
        if number >= self.at and name != "close":
            raise PowerLoss


@pytest.mark.parametrize("before", ["one", "rows"])
def test_cut_off_at_any_step_it_goes_on(before: str, made: Path, tmp_path: Path) -> None:
    """From the store's last file on: named, the old one aside, the new one in its place, the old one's files gone."""
    one, two = contents(made / before), contents(made / "two")
    counting = CountingFs()
    shutil.copytree(made / before, tmp_path / "counted")
    upgrade(tmp_path / "counted", nested=True, replace=True, fs=counting, workers=1)
    states = set()
    for at in range(counting.count - len(one) - 14, counting.count + 1):
        store = Path(shutil.copytree(made / before, tmp_path / f"{at}/store"))
        with pytest.raises(PowerLoss):
            upgrade(store, nested=True, replace=True, fs=Unplugged(at), workers=1)
        left = {path.name: contents(path) for path in store.parent.iterdir()}
        states.add(tuple(sorted(left)))
        assert one in left.values() or two in left.values(), f"cut off at {at}, no store is whole: {sorted(left)}"
        assert left.get("store") in (None, one, two)
        upgrade(store, nested=True, replace=True)
        assert {path.name: contents(path) for path in store.parent.iterdir()} == {"store": two}, f"cut off at {at}"
        shutil.rmtree(store.parent)
    aside = f"store{ASIDE}"
    assert {("store", "store-v2"), ("store-v2", aside), ("store", aside)} <= states


@pytest.mark.parametrize("fault", ["EIO", "ENOSPC"])
def test_a_step_that_fails_is_told_and_gone_on_with(fault: str, made: Path, tmp_path: Path) -> None:
    counting = CountingFs()
    shutil.copytree(made / "one", tmp_path / "counted")
    upgrade(tmp_path / "counted", nested=True, replace=True, fs=counting, workers=1)
    told = 0
    for at in range(counting.count - 15, counting.count + 1, 2):
        store = Path(shutil.copytree(made / "one", tmp_path / f"{at}/store"))
        try:
            upgrade(store, nested=True, replace=True, fs=FaultyFs(at, ERRNOS[fault], lasting=False), workers=1)
        except ConvertError as error:
            told += 1
            assert str(store) in str(error)
            upgrade(store, nested=True, replace=True)
        assert {path.name: contents(path) for path in store.parent.iterdir()} == {"store": contents(made / "two")}
    assert told >= 6  # syncing the name of a store that is whole already may fail without harm


def test_the_old_one_stays_where_the_new_one_cannot_take_its_place(made: Path, store: Path) -> None:
    class Stuck(Fs):
        def rename(self, source: Path, target: Path) -> None:
            if target == store and source.name == "store-v2":
                raise OSError(ERRNOS["EIO"], "I/O error")
            super().rename(source, target)

    with pytest.raises(ConvertError, match="putting it in the place of"):
        upgrade(store, nested=True, replace=True, fs=Stuck())
    assert contents(store) == contents(made / "one")
    upgrade(store, nested=True, replace=True)
    assert contents(store) == contents(made / "two")


def test_a_place_on_another_disk_is_refused_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    other = fast_folder(tmp_path)
    if other.stat().st_dev == store.stat().st_dev:
        pytest.skip("there is no other file system here")
    try:
        with pytest.raises(UsageError, match="lies on another disk"):
            upgrade(store, other / "two", nested=True, replace=True)
        assert not list(other.iterdir())
    finally:
        shutil.rmtree(other)


def test_what_is_no_upgrade_of_it_never_takes_its_place(made: Path, store: Path, tmp_path: Path) -> None:
    before = contents(store)
    make_checkpoint(tmp_path / "other", quantize={"group_size": 32, "bits": 4}, num_hidden_layers=1, seed=1)
    convert(str(tmp_path / "other"), tmp_path / "store-v2", nested=True)
    with pytest.raises(UsageError, match="not what this command would make"):
        upgrade(store, nested=True, replace=True)
    shutil.rmtree(tmp_path / "store-v2")
    upgrade(store, row_blocks=4)
    with pytest.raises(UsageError, match="not what this command would make"):
        upgrade(store, nested=True, replace=True)
    with pytest.raises(UsageError, match="already exists"):
        upgrade(store, nested=True)
    (tmp_path / f"store{ASIDE}").mkdir()
    with pytest.raises(UsageError, match="is in the way"):
        upgrade(store, row_blocks=4, replace=True)
    assert contents(store) == before


def test_another_layout_aside_is_never_removed(made: Path, tmp_path: Path) -> None:
    """The same experts in two layouts, neither the one asked for: whose place was whose cannot be known."""
    store = Path(shutil.copytree(made / "rows", tmp_path / "store"))
    aside = Path(shutil.copytree(made / "one", tmp_path / f"store{ASIDE}"))
    with pytest.raises(UsageError, match="is in the way"):
        upgrade(store, nested=True, replace=True)
    assert contents(store) == contents(made / "rows") and contents(aside) == contents(made / "one")


@pytest.mark.parametrize("other", ["another store", "the checkpoint", "a folder"])
def test_what_lies_aside_and_is_not_ours_is_never_removed(other: str, made: Path, store: Path, tmp_path: Path) -> None:
    upgrade(store, nested=True, replace=True)
    aside = tmp_path / f"store{ASIDE}"
    if other == "another store":
        make_checkpoint(tmp_path / "other", quantize={"group_size": 32, "bits": 4}, num_hidden_layers=1, seed=1)
        convert(str(tmp_path / "other"), aside)
    else:
        shutil.copytree(made / ("source" if other == "the checkpoint" else "one"), aside)
        (aside / "store.json").unlink(missing_ok=True)
    before = contents(aside)
    with pytest.raises(UsageError, match="already of version 2"):
        upgrade(store, nested=True, replace=True)
    assert contents(aside) == before


def test_files_of_others_are_kept(made: Path, store: Path, tmp_path: Path) -> None:
    (store / "notes.md").write_text("mine")
    (store / "experts/layer-000/mine.bin").write_text("mine")
    said: list[str] = []
    upgrade(store, nested=True, replace=True, say=said.append)
    aside = tmp_path / f"store{ASIDE}"
    assert contents(aside) == {"notes.md": b"mine", "experts/layer-000/mine.bin": b"mine"}
    assert contents(store) == contents(made / "two")
    assert said == [f"{aside}: holds files that were none of the store's, so it is kept"]


@pytest.mark.parametrize("name", ["experts/layer-000/expert-002.safetensors", "model.safetensors", "config.json"])
def test_a_damaged_store_is_told_and_stays(name: str, made: Path, store: Path, tmp_path: Path) -> None:
    good = (store / name).read_bytes()
    (store / name).write_bytes(good[:-2] + bytes([good[-2] ^ 1]) + good[-1:])
    with pytest.raises(MoeMlxError, match=name) as caught:
        upgrade(store, nested=True, replace=True)
    assert caught.value.exit_code == 3
    assert read_manifest(store).version == 1
    assert not (tmp_path / "store-v2").exists()
    (store / name).write_bytes(good)
    shutil.rmtree(tmp_path / "store-v2.partial", ignore_errors=True)
    upgrade(store, nested=True)
    assert contents(tmp_path / "store-v2") == contents(made / "two")


def test_a_damaged_part_gets_no_new_digest(made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made / "two", tmp_path / "store"))
    flip(store / "experts/layer-000/expert-002.safetensors")
    with pytest.raises(ConvertError, match=r"expert-002\.safetensors: digest is .* The store is damaged"):
        upgrade(store, row_blocks=4)
    assert not (tmp_path / "store-v2").exists()


def test_a_link_in_the_store_is_not_followed(store: Path, tmp_path: Path) -> None:
    path = store / "experts/layer-000/expert-001.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreCorruptError, match="symbolic link"):
        upgrade(store, nested=True)
    assert not list(tmp_path.glob("store-v2*"))


def test_a_store_that_is_damaged_afterwards_is_found_by_verify(store: Path) -> None:
    upgrade(store, nested=True, replace=True)
    flip(store / "experts/layer-000/expert-003.safetensors")
    (damage,) = verify(store).damage
    assert (damage.layer, damage.expert) == (0, 3)
    assert damage.reason.startswith("part low: digest is")


def test_what_cannot_be_upgraded_is_refused(made: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="say how"):
        upgrade(store)
    with pytest.raises(UsageError, match="no store"):
        upgrade(made / "source", nested=True)
    with pytest.raises(MoeMlxError, match="nothing-here"):
        upgrade(tmp_path / "nothing-here", nested=True, replace=True)
    with pytest.raises(UsageError, match="inside the checkpoint"):
        upgrade(store, store / "inside", nested=True)
