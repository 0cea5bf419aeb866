"""Reading experts: whole and checked, by many threads, with few descriptors, or an error that names the expert."""

from __future__ import annotations

import gc
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.errors import ExpertReadError, StoreCorruptError, StoreMissingError, UnsupportedModelError
from moe_mlx.store import ExpertSource, open_source
from moe_mlx.store.descriptors import Descriptors
from moe_mlx.store.files import fill
from moe_mlx_convert import convert
from tests.checkpoints import make_checkpoint
from tests.convert.contents import expert
from tests.damage import flip
from tests.ordinary_user import as_an_ordinary_user


@pytest.fixture(scope="module", params=[{}, {"nested": True, "row_blocks": 4}], ids=["version 1", "version 2"])
def made(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    sizes: dict[str, Any] = {"num_experts": 8, "num_hidden_layers": 3, "shard_bytes": 100_000}
    make_checkpoint(folder / "source", quantize={"group_size": 32, "bits": 4}, **sizes)
    convert(str(folder / "source"), folder / "store", compare=False, **request.param)
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "store", tmp_path / "store"))


def buffers(source: ExpertSource, index: int = 0) -> list[memoryview]:
    return [memoryview(bytearray(t.nbytes)) for t in source.layers[index].tensors]


FILE = "experts/layer-001/expert-002.safetensors"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def grow(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def link_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("real"))
    path.parent.symlink_to("real")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swap(path: Path) -> None:
    shutil.copy(path.with_name("expert-003.safetensors"), path)


DAMAGE = {
    "flipped byte": (flip, "digest is"),
    "cut short": (cut, "are expected"),
    "grown": (grow, "are expected"),
    "missing": (Path.unlink, "missing"),
    "a link": (link, "symbolic link"),
    "a linked folder": (link_folder, "symbolic link|Not a directory"),
    "a pipe": (pipe, "not a regular file"),
    "a folder": (folder, "not a regular file"),
    "another expert's file": (swap, "digest is"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_by_layer_expert_and_file(damage: str, store: Path) -> None:
    change, reason = DAMAGE[damage]
    change(store / FILE)
    with open_source(store) as source, pytest.raises(ExpertReadError, match=reason) as caught:
        source.read_into(1, 2, buffers(source))
    assert (caught.value.layer, caught.value.expert, caught.value.path) == (1, 2, store / FILE)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("change", [flip, cut], ids=["flipped", "cut"])
def test_damage_in_the_middle_is_told_and_mended_files_are_read_again(change: object, store: Path) -> None:
    good = (store / FILE).read_bytes()
    with open_source(store) as source:
        before = expert(source, 1, 2)
        change(store / FILE)  # type: ignore[operator]
        with pytest.raises(ExpertReadError):
            source.read_into(1, 2, buffers(source))
        (store / FILE).unlink()
        (store / FILE).write_bytes(good)
        assert expert(source, 1, 2) == before
        assert expert(source, 2, 5)


def test_digests_are_not_checked_when_switched_off(store: Path) -> None:
    flip(store / FILE)
    with open_source(store, verify=False) as source:
        assert source.read_into(1, 2, buffers(source)) == source.layers[1].expert_nbytes


@pytest.fixture
def open_store(made: Path) -> Iterator[Path]:
    """A copy that every user may read, outside of pytest's own folders."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(shutil.copytree(made / "store", Path(folder) / "store"))


def test_an_unreadable_file_is_told(open_store: Path) -> None:
    (open_store / FILE).chmod(0)

    def check() -> None:
        with open_source(open_store) as source:
            expert(source, 1, 1)
            with pytest.raises(ExpertReadError, match="Permission"):
                source.read_into(1, 2, buffers(source))

    as_an_ordinary_user(check)


def test_an_ordinary_user_with_few_descriptors(open_store: Path) -> None:
    def check() -> None:
        held = len(list(Path("/dev/fd").iterdir()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (held + 20, held + 20))
        with open_source(open_store) as source:
            for _ in range(2):
                for i in range(3):
                    for e in range(8):
                        expert(source, i, e)

    as_an_ordinary_user(check)


def test_a_shard_cut_short_in_place_is_told(made: Path, tmp_path: Path) -> None:
    source_folder = Path(shutil.copytree(made / "source", tmp_path / "source"))
    with open_source(source_folder) as source:
        last = source.byte_ranges(1, 7)[0]
        os.truncate(last.path, last.offset + 1)
        with pytest.raises(ExpertReadError, match=r"gate_proj\.weight ends after 1 of") as caught:
            source.read_into(1, 7, buffers(source))
        assert caught.value.path == last.path


def test_wrong_buffers_are_a_mistake_of_the_caller(made: Path) -> None:
    with open_source(made / "store") as source:
        with pytest.raises(ValueError, match="buffers of"):
            source.read_into(0, 0, buffers(source)[:-1])
        with pytest.raises(ValueError, match="experts 0 to 7"):
            source.read_into(0, 8, buffers(source))
        with pytest.raises(ValueError, match="experts 0 to 7"):
            source.read_into(0, -1, buffers(source))


def test_digest_and_ranges_agree_with_the_file(made: Path) -> None:
    with open_source(made / "store") as source, open_source(made / "source") as in_place:
        assert source.digest(0, 0) != source.digest(0, 1)
        assert in_place.digest(0, 0) is None
        assert len(source.byte_ranges(0, 0)) == 1
        assert len(in_place.byte_ranges(0, 0)) == 9
        assert not source.in_place
        assert in_place.in_place
        source.drop_cached()
        in_place.drop_cached()
        assert expert(source, 2, 7) == expert(in_place, 2, 7)


def held_descriptors() -> int:
    """How many this process holds, those of other tests' dropped models given back first."""
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


@contextmanager
def descriptor_limit(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("form", ["store", "source"])
def test_many_threads_with_few_descriptors(form: str, made: Path) -> None:
    held = held_descriptors()
    with open_source(made / form) as source, descriptor_limit(max(64, held + 24)):
        wanted = {(i, e): expert(source, i, e) for i in range(3) for e in range(8)}

        def read(seed: int) -> None:
            for step in range(60):
                key = ((seed + step) % 3, (seed * 5 + step * 3) % 8)
                assert expert(source, *key) == wanted[key]

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(read, range(16)))
    assert held_descriptors() <= held


def test_descriptors_shrink_when_others_take_them(made: Path) -> None:
    held = held_descriptors()
    with open_source(made / "store") as source, descriptor_limit(held + 40):
        for i in range(3):
            for e in range(8):
                expert(source, i, e)
        others = []
        try:
            while True:
                try:
                    others.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            for i in range(3):
                for e in range(8):
                    expert(source, i, e)
        finally:
            for fd in others:
                os.close(fd)


def test_a_descriptor_in_use_is_not_closed(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / name).write_text(name)
    held: Descriptors[str] = Descriptors(lambda name: os.open(tmp_path / name, os.O_RDONLY))
    with held.using("a") as fd:
        held.forget("a")
        assert os.pread(fd, 1, 0) == b"a"
        with held.using("a") as again:
            assert again != fd
        held.close()
        assert os.pread(fd, 1, 0) == b"a"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pread(fd, 1, 0)
    with pytest.raises(OSError, match="closed"), held.using("a"):
        pass
    assert len(held) == 0


def test_closing_wakes_those_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_mlx.store.descriptors.allowed", lambda share: 1)
    held: Descriptors[int] = Descriptors(lambda _: os.open(os.devnull, os.O_RDONLY))
    told: list[str] = []

    def wait() -> None:
        try:
            with held.using(2):
                told.append("opened")
        except OSError:
            told.append("closed")

    with held.using(1):
        thread = threading.Thread(target=wait)
        thread.start()
        held.close()
        thread.join(5)
    assert told == ["closed"]


def test_short_reads_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(range(200)))
    whole = os.preadv

    def short(fd: int, views: list[memoryview], offset: int) -> int:
        return whole(fd, [views[0][: max(1, views[0].nbytes // 3)]], offset)

    monkeypatch.setattr(os, "preadv", short)
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    views = [memoryview(bytearray(n)) for n in (50, 0, 7, 100)]
    assert fill(fd, views, 10) == 157
    assert b"".join(views) == bytes(range(10, 167))
    assert fill(fd, [memoryview(bytearray(50))], 180) == 20
    os.close(fd)


def test_what_is_no_model_is_told(tmp_path: Path, store: Path) -> None:
    with pytest.raises(StoreMissingError, match="no such folder"):
        open_source(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreMissingError, match=r"config\.json: no such file"):
        open_source(tmp_path / "empty")
    store.rename(store.with_name("store.partial"))
    with pytest.raises(StoreMissingError, match="unfinished"):
        open_source(store.with_name("store.partial"))


@pytest.mark.parametrize("name", ["store.json", "model.safetensors"])
def test_links_in_a_store_are_refused(name: str, store: Path) -> None:
    link(store / name)
    with pytest.raises(StoreCorruptError, match="symbolic link"):
        open_source(store)


def test_resident_shards_are_checked_at_opening(store: Path) -> None:
    cut(store / "model.safetensors")
    with pytest.raises(StoreCorruptError, match="the manifest says"):
        open_source(store)
    (store / "model.safetensors").unlink()
    with pytest.raises(StoreMissingError, match="missing from the store"):
        open_source(store)


def test_dense_and_unknown_models_are_told(tmp_path: Path) -> None:
    dense = make_checkpoint(tmp_path / "dense", num_experts=0, mlp_only_layers=[0, 1])
    with pytest.raises(UnsupportedModelError, match="no routed experts"):
        open_source(dense)
    (dense / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnsupportedModelError, match="'llama' is a dense model or a family"):
        open_source(dense)
    (dense / "config.json").write_text("{}")
    with pytest.raises(UnsupportedModelError, match="names no model_type"):
        open_source(dense)
