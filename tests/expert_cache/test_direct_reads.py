"""Reading past the page cache: any offset, any memory, any length; and the way back where a file system refuses."""

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import moe_mlx
from moe_mlx.errors import ExpertReadError, UsageError
from moe_mlx.store import access as access_module
from moe_mlx.store import open_source
from moe_mlx.store.access import Access
from moe_mlx.store.files import drop_pages, fill
from moe_mlx.store.page_cache import cached_nbytes, page_cache_use
from moe_mlx.store.probe import direct_alignment, use_io
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, make_checkpoint, tiny_checkpoint

O_DIRECT = getattr(os, "O_DIRECT", 0)
pytestmark = pytest.mark.skipif(not O_DIRECT, reason="no O_DIRECT on this system")
LENGTH = 3 * 4096 + 1234


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("direct")
    make_checkpoint(folder / "in place", num_experts=8, moe_intermediate_size=33, hidden_size=66, shard_bytes=100_000)
    convert(str(folder / "in place"), folder / "store", compare=False)
    for path in (folder / "in place").iterdir():  # what is not on the disk yet cannot be dropped
        with path.open("rb") as file:
            os.fsync(file)
    return {"store": folder / "store", "in place": folder / "in place"}


@pytest.fixture(scope="module")
def loadable(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("loadable")
    tiny_checkpoint("qwen3_moe", folder / "in place", quantization=AFFINE4)
    convert(str(folder / "in place"), folder / "store", compare=False)
    return {"store": folder / "store", "in place": folder / "in place"}


@pytest.fixture
def small_bounce(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks, so that a read takes many pieces."""
    monkeypatch.setattr(access_module, "BOUNCE_BYTES", 8192)
    monkeypatch.setattr(access_module, "_of_thread", threading.local())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "bytes"
    path.write_bytes(np.random.default_rng(1).bytes(LENGTH))
    return path


@pytest.fixture
def opened(file: Path) -> Iterator[tuple[Access, int]]:
    """A way to read directly and a descriptor for it."""
    way = Access("direct", memory=4096, block=4096)
    try:
        fd = way.open(file)
        asked = direct_alignment(fd)
        os.preadv(fd, [access_module.bounce_buffer()[:4096]], 0)
    except OSError as error:
        pytest.skip(f"this file system refuses direct reads: {error}")
    assert asked is not None and fcntl.fcntl(fd, fcntl.F_GETFL) & O_DIRECT
    yield Access("direct", memory=asked[0], block=asked[1]), fd
    os.close(fd)


def placed(sizes: list[int], shifts: list[int]) -> list[memoryview]:
    """Buffers that begin `shift` bytes after a page."""
    return [memoryview(mmap.mmap(-1, s + t + 1))[t : t + s] for s, t in zip(sizes, shifts, strict=True)]


@pytest.mark.usefixtures("small_bounce")
def test_any_offset_memory_and_length(opened: tuple[Access, int], file: Path):
    access, fd = opened
    content, random = file.read_bytes(), np.random.default_rng(0)
    for _ in range(400):
        offset = int(random.choice([0, 512, 4096, int(random.integers(LENGTH + 9000))]))
        count = int(random.integers(1, 20))
        sizes = [int(random.choice([0, 512, 4096, int(random.integers(2000))])) for _ in range(count)]
        views = placed(sizes, [int(random.choice([0, 8, 512, 1])) for _ in sizes])
        wanted = content[offset : offset + sum(sizes)]
        assert access.fill(fd, views, offset) == len(wanted)
        assert b"".join(views)[: len(wanted)] == wanted
        assert not any(b"".join(views)[len(wanted) :])  # not a byte past the end of the file


def test_aligned_reads_need_no_copy(opened: tuple[Access, int], file: Path, monkeypatch: pytest.MonkeyPatch):
    access, fd = opened
    copied: list[int] = []
    through = Access._through_bounce
    monkeypatch.setattr(Access, "_through_bounce", lambda *a: copied.append(n := through(*a)) or n)
    views = placed([4096, 8192], [0, 0])
    assert access.fill(fd, views, 0) == 12288
    assert (b"".join(views), sum(copied)) == (file.read_bytes()[:12288], 0)
    assert access.fill(fd, placed([4096, 8192], [0, 1]), 0) == sum(copied) == 12288
    assert access.fill(fd, placed([4096, 4096], [0, 0]), 1) == 8192 and sum(copied) == 12288 + 8192


@pytest.mark.parametrize("shift", [0, 1])
def test_short_reads_are_completed(opened: tuple[Access, int], file: Path, shift: int, monkeypatch: pytest.MonkeyPatch):
    access, fd = opened
    whole, calls = os.preadv, []

    def short(fd: int, views: list[memoryview], offset: int) -> int:
        calls.append(offset)
        n = whole(fd, views, offset)
        return max(access.block, n // 3 // access.block * access.block) if n > access.block else n

    monkeypatch.setattr(os, "preadv", short)
    views = placed([4096, 8192, 2000], [shift, shift, shift])
    assert access.fill(fd, views, 0) == LENGTH
    assert b"".join(views)[:LENGTH] == file.read_bytes()
    assert len(calls) > 4


@pytest.mark.parametrize("form", ["store", "in place"])
def test_every_expert_is_the_same_and_leaves_no_page(models: dict[str, Path], form: str):
    with open_source(models[form]) as cached, open_source(models[form]) as direct:
        if use_io(direct, "direct").way != "direct":
            pytest.skip(direct.access.reason)
        cached.drop_cached()
        use = page_cache_use(cached)
        if use is None or use.nbytes:
            pytest.skip(f"this file system keeps what it was asked to drop, or does not tell: {use}")
        found = {}
        for layer in direct.layers:
            for expert in range(layer.experts):
                views = [memoryview(bytearray(t.nbytes)) for t in layer.tensors]
                direct.read_into(layer.index, expert, views)
                found[layer.index, expert] = b"".join(views)
        use = page_cache_use(cached)
        assert use is not None and (use.nbytes, use.of_nbytes, use.estimate) == (0, cached.experts_nbytes, False)
        for (index, expert), direct_bytes in found.items():
            views = [memoryview(bytearray(t.nbytes)) for t in cached.layers[index].tensors]
            cached.read_into(index, expert, views)
            assert b"".join(views) == direct_bytes
        use = page_cache_use(cached)
        assert use is not None and use.nbytes == use.of_nbytes and use.share == 1.0


def test_pages_are_counted_byte_by_byte(file: Path):
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    drop_pages(fd)
    if cached_nbytes(fd, 0, LENGTH) != 0:
        pytest.skip("this file system keeps what it was asked to drop")
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no page more than was asked for
    fill(fd, [memoryview(bytearray(10))], 4096 + 50)
    assert cached_nbytes(fd, 0, LENGTH) == cached_nbytes(fd, 4096, 4096) == 4096
    assert [cached_nbytes(fd, 4090, 100), cached_nbytes(fd, 8190, 9), cached_nbytes(fd, 5000, 7)] == [94, 2, 7]
    assert cached_nbytes(fd, LENGTH + 1, 5) == 0
    drop_pages(fd, 5000, 1)
    assert cached_nbytes(fd, 0, LENGTH) == 0
    os.close(fd)


def test_a_large_model_is_sampled(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("moe_mlx.store.page_cache.MOST_EXPERTS", 5)
    with open_source(models["store"]) as source:
        views = [memoryview(bytearray(t.nbytes)) for t in source.layers[0].tensors]
        for index, expert in [(i, e) for i in range(2) for e in range(8)]:
            source.read_into(index, expert, views)
        use = page_cache_use(source)
        assert use is not None and (use.nbytes, use.estimate) == (source.experts_nbytes, True)


def refuse_open(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path, flags, *args, **more):
        if flags & O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        return real(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", refusing)


def refuse_read(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def refusing(fd, views, offset, *flags):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, views, offset, *flags)

    monkeypatch.setattr(os, "preadv", refusing)


@pytest.mark.parametrize("refuse", [refuse_open, refuse_read])
@pytest.mark.parametrize("form", ["store", "in place"])
def test_a_file_system_that_refuses_is_read_cached_and_dropped(
    loadable: dict[str, Path], form: str, refuse, monkeypatch: pytest.MonkeyPatch
):
    refuse(monkeypatch)
    said: list[str] = []
    model, _ = moe_mlx.load(loadable[form], expert_cache="100%", decode="readback", io="direct", say=said.append)
    runtime = moe_mlx.runtime_of(model)
    assert (runtime.io_way, runtime.plan.extra) == ("dropped", 0)
    assert "refuses direct reads" in runtime.io_reason
    told = [line for line in said if "page cache" in line]
    assert len(told) == 1 and runtime.io_reason in told[0] and "dropped" in told[0]
    with open_source(loadable[form]) as plain:
        for cache in runtime.layers:
            for expert, slot in enumerate(cache.table.slot_of):
                wanted = [memoryview(bytearray(spec.nbytes)) for spec in cache.spec.tensors]
                plain.read_into(cache.spec.index, expert, wanted)
                assert cache.bank.buffers(slot) == wanted
    runtime.close()


@pytest.mark.parametrize("refuse", [refuse_open, refuse_read])
def test_a_refusal_after_loading_is_told(models: dict[str, Path], refuse, monkeypatch: pytest.MonkeyPatch):
    with open_source(models["store"]) as source:
        if use_io(source, "direct").way != "direct":
            pytest.skip(source.access.reason)
        refuse(monkeypatch)
        with pytest.raises(ExpertReadError, match="direct reads are refused"):
            source.read_into(0, 1, [memoryview(bytearray(t.nbytes)) for t in source.layers[0].tensors])


def test_what_was_dropped_is_not_in_the_page_cache(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    with open_source(models["store"]) as source:
        source.drop_cached()
        if (use := page_cache_use(source)) is None or use.nbytes:
            pytest.skip("this file system keeps what it was asked to drop, or does not tell")
        monkeypatch.setattr("moe_mlx.store.probe.direct_alignment", lambda fd: None)
        assert use_io(source, "direct").way == "dropped"
        views = [memoryview(bytearray(t.nbytes)) for t in source.layers[0].tensors]
        source.read_into(0, 3, views)
        after = page_cache_use(source, [(0, 3)])
        assert after is not None and (after.nbytes, after.of_nbytes) == (0, source.layers[0].expert_nbytes)


def test_an_error_of_the_disk_is_told_as_in_cached_mode(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    told = []
    for io in ("cached", "direct"):
        with open_source(models["store"]) as source, monkeypatch.context() as patch:
            use_io(source, io)
            views = [memoryview(bytearray(t.nbytes)) for t in source.layers[0].tensors]
            source.read_into(0, 1, views)

            def broken(*args: object) -> int:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

            patch.setattr(os, "preadv", broken)
            with pytest.raises(ExpertReadError, match="Input/output error") as caught:
                source.read_into(0, 1, views)
            told.append(str(caught.value))
            patch.undo()
            source.read_into(0, 1, views)
    assert told[0] == told[1]


def test_a_way_that_is_none(models: dict[str, Path]):
    with open_source(models["store"]) as source, pytest.raises(UsageError, match="cached, direct"):
        use_io(source, "raw")
