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

import pytest

from moe_mlx.errors import MoeMlxError
from moe_mlx_convert import convert
from tests.checkpoints import make_checkpoint
from tests.convert.contents import contents
from tests.fault.faults import fast_folder
from tests.fault.ways import WAYS, make_source


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = fast_folder(tmp_path_factory.mktemp("kills"))
    make_checkpoint(folder / "source", num_experts=16, num_hidden_layers=4, shard_bytes=200_000)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_random_moments(way: str, kills: int, place: Path) -> None:
    work = place / f"kills-{kills}-{way}"
    work.mkdir()
    make_source(work / "source", way, num_experts=16, num_hidden_layers=4, shard_bytes=200_000)
    words = [sys.executable, "-m", "tests.fault.kill_and_resume", str(work / "source"), str(work), str(kills), "7", way]
    root = Path(__file__).parents[2]
    told = json.loads(subprocess.run(words, check=True, capture_output=True, text=True, cwd=root).stdout)
    print(told)
    assert told["wrong"] == 0
    assert told["kills"] == kills
    assert told["resumed"] > 0 or kills < 50, "four may all come before the first expert, or after the last"


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounting needs root on Linux")
def test_a_disk_that_fills_up(place: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(MoeMlxError, match="GB are free"):
            convert(str(place / "source"), disk / "store")
        assert not list(disk.iterdir())
        subprocess.run(["mount", "-o", "remount,size=6m", str(disk)], check=True)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1_000_000))

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
            convert(str(place / "source"), disk / "store", workers=1, fs=Meddler(200, meddle))
        assert caught.value.exit_code == 3
        assert not (disk / "store").exists()
        with pytest.raises(MoeMlxError, match=r"GB are free|disk is full"):
            convert(str(place / "source"), disk / "store")
        ballast.unlink()
        summary = convert(str(place / "source"), disk / "store")
        assert summary.files_resumed > 0
        convert(str(place / "source"), tmp_path / "reference")
        assert contents(disk / "store") == contents(tmp_path / "reference")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
