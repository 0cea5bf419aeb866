"""Kill -9 at random moments, a disk that fills up, two converters at once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.errors import MoeMlxError
from moe_mlx_convert import convert
from tests.checkpoints import make_checkpoint
from tests.convert.contents import contents
from tests.fault.faults import fast_folder
from tests.fault.ways import ALL_WAYS, FEWER, UPGRADE, WAYS, make_source

#: The layers and experts of what is killed.
SIZES = {"num_experts": 16, "num_hidden_layers": 4, "shard_bytes": 200_000}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = fast_folder(tmp_path_factory.mktemp("kills"))
    make_checkpoint(folder / "source", **SIZES)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ALL_WAYS)
def test_killed_at_random_moments(way: str, kills: int, place: Path) -> None:
    if way == FEWER and sys.platform == "darwin":
        pytest.skip("a Mac's frameworks, which MLX needs, are not used after a fork")
    work = place / f"kills-{kills}-{way}"
    work.mkdir()
    make_source(work / "source", way, **SIZES)
    kill("kill_and_resume", work, kills, way)


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
def test_an_upgrade_in_a_store_s_own_place_killed_at_random_moments(kills: int, place: Path) -> None:
    """After every kill one of the two stores is whole, and the same command leaves the new one alone."""
    work = place / f"kills-{kills}-in-place"
    work.mkdir()
    make_source(work / "source", UPGRADE, **SIZES)
    told = kill("kill_and_replace", work, kills)
    assert len(told["stages"]) > 2 or kills < 50, "kills fell while the new store was made, and while it moved"


def kill(program: str, work: Path, kills: int, *more: str) -> dict[str, Any]:
    words = [sys.executable, "-m", f"tests.fault.{program}", str(work / "source"), str(work), str(kills), "7", *more]
    root = Path(__file__).parents[2]
    told: dict[str, Any] = json.loads(
        subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, cwd=root).stdout
    )
    print(told)
    assert told["wrong"] == 0
    assert told["kills"] == kills
    assert told["resumed"] > 0 or kills < 50, "four may all come before the first expert, or after the last"
    return told


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root on Linux")
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_fills_up(way: str, tmp_path: Path) -> None:
    run, source, disk = WAYS[way], tmp_path / "source", tmp_path / "disk"
    make_source(source, way, **SIZES)
    needed = run(source, tmp_path / "reference").bytes_written
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={needed // 2}", "none", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(MoeMlxError, match="GB are free"):
            run(source, disk / "store")
        assert not list(disk.iterdir())
        subprocess.run(["mount", "-o", f"remount,size={needed + 2_000_000}", str(disk)], check=True)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(500_000))

        def fill() -> None:
            with ballast.open("ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        from tests.fault.faults import Meddler

        def meddle() -> None:
            try:
                fill()
            except OSError:
                return

        with pytest.raises(MoeMlxError, match="the disk is full while") as caught:
            run(source, disk / "store", workers=1, fs=Meddler(200, meddle))
        assert caught.value.exit_code == 3
        assert not (disk / "store").exists()
        with pytest.raises(MoeMlxError, match=r"GB are free|disk is full"):
            run(source, disk / "store")
        ballast.unlink()
        summary = run(source, disk / "store")
        assert summary.files_resumed > 0
        assert contents(disk / "store") == contents(tmp_path / "reference")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_two_converters_on_one_destination(place: Path) -> None:
    words = [sys.executable, "-m", "moe_mlx", "convert", "--model", str(place / "source"), "--mlx-path"]
    store = place / "contested"
    both = [subprocess.Popen([*words, str(store)], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [(process.communicate()[1], process.returncode) for process in both]
    codes = sorted(code for _, code in told)
    assert codes == [0, 2, 2], told
    for err, code in told:
        assert code == 0 or "another converter" in err or "already exists" in err
    convert(str(place / "source"), place / "alone")
    assert contents(store) == contents(place / "alone")


def test_ctrl_c_keeps_what_there_is(place: Path) -> None:
    words = [sys.executable, "-m", "moe_mlx", "convert", "--model", str(place / "source"), "--mlx-path"]
    store = place / "interrupted"
    process = subprocess.Popen([*words, str(store)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (place / "interrupted.partial" / "experts").exists():
        time.sleep(0.001)
    process.send_signal(2)
    err = process.communicate()[1]
    assert process.returncode in (0, 130), err
    assert "Traceback" not in err
    if process.returncode == 130:
        assert not store.exists()
        convert(str(place / "source"), store)
    assert (store / "store.json").is_file()
