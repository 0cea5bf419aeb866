"""Every file operation of a conversion fails once, or from then on; power is lost at every one of them.

On a store of 2 x 4 experts, for every N: either the store is right, or there is a clear error, no store, an untouched
source, and running again resumes to the same bytes as an uninterrupted run. So for every version of the store, and for
the upgrade from one to another.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.errors import MoeMlxError
from moe_mlx.store.durable import Fs
from tests.convert.contents import contents
from tests.fault.faults import ERRNOS, CountingFs, FaultyFs, Meddler, PowerLoss, RecordingFs, fast_folder
from tests.fault.ways import ALL_WAYS, FEWER, UPGRADE, Run, make_source

#: Every how many-th operation the fast tests of a way take.
STEPS = {"version 1": 11, "version 2": 37, UPGRADE: 41, FEWER: 43}


@pytest.fixture(scope="module", params=ALL_WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(way: str) -> Run:
    return ALL_WAYS[way]


@pytest.fixture(scope="module")
def place(way: str, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = fast_folder(tmp_path_factory.mktemp("faults"))
    make_source(folder / "source", way)
    run(folder / "source", folder / "reference", workers=1)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reference(place: Path) -> dict[str, bytes]:
    return contents(place / "reference")


def operations(run: Run, place: Path) -> int:
    counting = CountingFs()
    run(place / "source", place / "counted", workers=1, fs=counting)
    shutil.rmtree(place / "counted")
    return counting.count


def sampled(way: str, *values: object, name: str, brief: bool) -> list[Any]:
    """A case for a few operations, fast if it is to be `brief`, and one, slow, for all of them."""
    return [
        pytest.param(way, *values, False, id=f"{way}, {name}, a sample", marks=() if brief else pytest.mark.slow),
        pytest.param(way, *values, True, id=f"{way}, {name}, all", marks=pytest.mark.slow),
    ]


#: Of the other ways, the fast tests take the faults that differ most.
BRIEF = {("ENOSPC", True), ("EIO", False)}


@pytest.mark.rows_by_day(6)
@pytest.mark.parametrize(
    ("way", "fault", "lasting", "every"),
    [
        case
        for way in ALL_WAYS
        for fault in ERRNOS
        for lasting in (False, True)
        for case in sampled(
            way,
            fault,
            lasting,
            name=f"{fault} {'from then on' if lasting else 'once'}",
            brief=way == "version 1" or (fault, lasting) in BRIEF,
        )
    ],
    indirect=["way"],
)
def test_every_operation_fails(
    fault: str, lasting: bool, every: bool, way: str, run: Run, place: Path, reference: dict[str, bytes]
) -> None:
    step = 1 if every else STEPS[way]
    source, store = contents(place / "source"), place / f"store-{fault}-{lasting}-{step}"
    total, tried, failed, resumed = operations(run, place), 0, 0, 0
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for at in range(1, total + 1, step):
        tried += 1
        faulty = FaultyFs(at, ERRNOS[fault], lasting=lasting)
        try:
            run(place / "source", store, workers=1, fs=faulty)
        except MoeMlxError as error:
            failed += 1
            assert not store.exists(), f"operation {at} left a store"
            assert error.exit_code in (2, 3)
            assert str(place) in str(error)
            assert contents(place / "source") == source
            resumed += run(place / "source", store, workers=1).files_resumed > 0
        else:
            # Closing files, and syncing the name of a store that is whole already, may fail without harm.
            assert fault == "short" or not lasting or at > total - 8, f"operation {at} was ignored"
        assert contents(store) == reference, f"operation {at} gave another store"
        assert not store.with_name(f"{store.name}.partial").exists()
        shutil.rmtree(store)
    assert len(list(Path("/dev/fd").iterdir())) <= descriptors  # fewer where other tests' models were collected
    if fault == "short":
        assert failed == 0
    else:
        assert failed > tried // 2
        assert resumed > 0
    print(f"{fault}: {tried} of {total} operations, {failed} failed, {resumed} resumed with files taken over")


@pytest.mark.rows_by_day(2)
def test_several_threads_fail_as_one(run: Run, place: Path, reference: dict[str, bytes]) -> None:
    store = place / "threads"
    for at in range(1, operations(run, place), 29):
        try:
            run(place / "source", store, workers=4, fs=FaultyFs(at, ERRNOS["EIO"], lasting=True))
        except MoeMlxError:
            assert not store.exists()
            run(place / "source", store, workers=4)
        assert contents(store) == reference
        shutil.rmtree(store)


@pytest.mark.rows_by_day(3)
@pytest.mark.skipif(sys.platform != "linux", reason="reads back write-only descriptors through /proc")
@pytest.mark.parametrize(
    ("way", "names_kept", "every"),
    [
        case
        for way in ALL_WAYS
        for kept in (True, False)
        for case in sampled(way, kept, name=f"names {'kept' if kept else 'lost'}", brief=way == "version 1" or not kept)
    ],
    indirect=["way"],
)
def test_power_is_lost_at_every_operation(
    names_kept: bool, every: bool, way: str, run: Run, place: Path, reference: dict[str, bytes]
) -> None:
    step = 1 if every else STEPS[way]
    room, image = place / "room", place / "image"
    whole = resumed = 0
    total = operations(run, place)
    moments = [*range(1, total - 10, step), *range(total - 10, total + 2)]  # the end is where it gets its name
    for at in moments:
        room.mkdir()
        recording = RecordingFs(room, at)
        with contextlib.suppress(PowerLoss):
            run(place / "source", room / "store", workers=1, fs=recording)
        recording.drive(room, image, names_kept=names_kept)
        store = image / "store"
        if store.exists():
            whole += 1
        else:
            resumed += run(place / "source", store, workers=1).files_resumed > 0
        assert contents(store) == reference, f"power lost at operation {at}"
        shutil.rmtree(room)
        shutil.rmtree(image)
    assert whole >= 1
    assert resumed > len(moments) // 4
    print(f"power lost at {len(moments)} of {total + 1} moments, {resumed} resumed with files taken over")


def test_a_changed_source_is_refused(way: str, run: Run, place: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(place / "source", tmp_path / "source"))
    middle = operations(run, place) // 3
    with pytest.raises(MoeMlxError):
        run(source, tmp_path / "store", workers=1, fs=FaultyFs(middle, ERRNOS["EIO"], lasting=True))
    shard = sorted(source.glob("*.safetensors"))[0]
    os.utime(shard, ns=(1, 1))
    with pytest.raises(MoeMlxError, match=f"{shard.name}: changed since") as caught:
        run(source, tmp_path / "store")
    assert caught.value.exit_code == 3
    assert (tmp_path / "store.partial").is_dir()
    shutil.rmtree(source)
    make_source(source, way, num_experts=8)
    with pytest.raises(MoeMlxError, match="begun from another checkpoint"):
        run(source, tmp_path / "store")


@pytest.mark.parametrize("harm", ["touched", "rewritten", "cut", "vanished"])
def test_a_source_that_changes_meanwhile(harm: str, run: Run, place: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(place / "source", tmp_path / "source"))
    shard = sorted(source.glob("*.safetensors"))[-1]

    def change() -> None:
        if harm == "touched":
            os.utime(shard, ns=(1, 1))
        elif harm == "rewritten":
            data = bytearray(shard.read_bytes())
            data[-1] ^= 1
            shard.write_bytes(data)
        elif harm == "cut":
            os.truncate(shard, 200)
        else:
            shutil.rmtree(source)

    with pytest.raises(MoeMlxError) as caught:
        run(source, tmp_path / "store", workers=1, fs=Meddler(operations(run, place) // 2, change))
    assert caught.value.exit_code == 3
    assert str(source) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_what_an_interrupted_run_left_is_read_again(
    run: Run, place: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    late = operations(run, place) - 20
    with pytest.raises(MoeMlxError):
        run(place / "source", tmp_path / "store", workers=1, fs=FaultyFs(late, ERRNOS["EIO"], lasting=True))
    partial = tmp_path / "store.partial"
    for name, place_ in {"expert-001": -1, "expert-002": 30}.items():  # data, and header
        path = partial / f"experts/layer-001/{name}.safetensors"
        data = bytearray(path.read_bytes())
        data[place_] ^= 1
        path.write_bytes(data)
    os.truncate(partial / "model.safetensors", 100)
    (partial / "experts/layer-000/expert-003.safetensors").unlink()
    summary = run(place / "source", tmp_path / "store")
    assert summary.files_resumed == summary.files - 1 - 4
    assert contents(tmp_path / "store") == reference


def test_a_disk_that_lies_is_found_by_the_comparison(run: Run, place: Path, tmp_path: Path) -> None:
    class Lying(CountingFs):
        def write(self, fd: int, buffer: memoryview, offset: int) -> int:
            if offset >= 16_384 and buffer.nbytes > 100:
                buffer = memoryview(bytes(buffer[:-1]) + bytes([buffer[-1] ^ 1]))
            return super().write(fd, buffer, offset)

    with pytest.raises(MoeMlxError, match="differs from the source") as caught:
        run(place / "source", tmp_path / "store", fs=Lying())
    assert caught.value.exit_code == 3
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_differs_is_written_anew_by_the_next_run(
    workers: int, way: str, run: Run, place: Path, tmp_path: Path
) -> None:
    """A bit flips in memory between reading and writing: the journal then holds the digest of the wrong bytes."""

    class Flipping(Fs):
        reads = 0

        def read(self, fd: int, buffer: memoryview, offset: int) -> int:
            n = super().read(fd, buffer, offset)
            self.reads += 1
            if self.reads in (30, 40):
                buffer[n // 2] ^= 1
            return n

    # A store's own digests tell at once, before anything is written of it.
    told = r"the manifest of .* says" if way == UPGRADE else r"differs from the source.* writes them anew"
    with pytest.raises(MoeMlxError, match=told):
        run(place / "source", tmp_path / "store", fs=Flipping(), workers=workers)
    assert not (tmp_path / "store").exists()
    resumed = run(place / "source", tmp_path / "store").files_resumed
    assert resumed > 0 or way == UPGRADE
    assert contents(tmp_path / "store") == contents(place / "reference")


def test_a_source_that_changed_unseen_between_two_runs(way: str, run: Run, place: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(place / "source", tmp_path / "source"))
    at = operations(run, place) * 2 // 3 if way == FEWER else 200  # what it reads of experts is no operation of its own
    with pytest.raises(MoeMlxError):
        run(source, tmp_path / "store", fs=FaultyFs(at, ERRNOS["ENOSPC"], lasting=True), workers=1)
    for shard in source.glob("*.safetensors"):
        times = shard.stat()
        data = bytearray(shard.read_bytes())
        data[-1] ^= 64  # so much that no rounding hides it
        shard.write_bytes(data)
        os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(MoeMlxError, match="the checkpoint changed"):
        run(source, tmp_path / "store")
    if way == UPGRADE:  # whose bytes are known: such a store is damaged, and stays so
        with pytest.raises(MoeMlxError, match=r"model.*the manifest of .* says"):
            run(source, tmp_path / "store")
        return
    run(source, tmp_path / "store")
    run(source, tmp_path / "afresh")
    assert contents(tmp_path / "store") == contents(tmp_path / "afresh")


def test_an_interrupt_does_not_wait_for_the_files_under_way(
    run: Run, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_mlx_convert.copying.BUFFER_NBYTES", 1024)

    numbers = itertools.count(1)  # several threads write: each number is one of theirs

    class Slow(Fs):
        def write(self, fd: int, buffer: memoryview, offset: int) -> int:
            if next(numbers) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            return super().write(fd, buffer, offset)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            run(place / "source", tmp_path / "store", fs=Slow(), workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert next(numbers) <= 20, "a shard of this checkpoint takes more"
    run(place / "source", tmp_path / "store")
    assert contents(tmp_path / "store") == contents(place / "reference")
