"""The core, stand-alone and under sanitizers, against the Python oracle on random steps; a million in the full run."""

import os
import subprocess
from pathlib import Path

import pytest

from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError, find_compiler
from moe_mlx.store.access import Access
from moe_mlx.store.probe import direct_alignment
from tests.native.stress import write_blocks

SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


@pytest.fixture(scope="module", params=SANITIZERS)
def binary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stress")
    made, whole = folder / request.param, folder / "whole.cpp"
    units = [build.FOLDER / unit for unit in build.UNITS if unit.startswith("core/")]
    units.append(Path(__file__).parent / "stress.cpp")
    whole.write_text("".join(f'#include "{unit}"\n' for unit in units))  # their headers are compiled once for all
    flags = ["-std=c++20", "-O1", "-g1", "-ffp-contract=off", "-pthread", f"-I{build.FOLDER}"]
    try:
        command = [*find_compiler(), *flags, *SANITIZERS[request.param], str(whole), "-o", str(made)]
    except NativeUnavailableError as error:
        pytest.skip(str(error))
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode and any(word in done.stderr for word in ("sanitize", "asan", "tsan", "ubsan")):
        pytest.skip(f"this compiler has no {request.param} sanitizer")
    assert done.returncode == 0, done.stderr
    return made


def agree(binary: Path, folder: Path, seed: int, blocks: int, steps: int, *more: str) -> None:
    write_blocks(folder / "steps", folder / "experts", seed, blocks, steps)
    done = subprocess.run(
        [binary, folder / "steps", folder / "experts", *more], capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == f"{blocks} blocks agree\n"


@pytest.mark.slow
def test_fifteen_hundred_steps(binary: Path, tmp_path: Path):
    agree(binary, tmp_path, seed=1, blocks=25, steps=60)


@pytest.mark.slow
def test_five_hundred_steps_read_past_the_page_cache(binary: Path, tmp_path: Path):
    (tmp_path / "some").write_bytes(b"x")
    try:
        fd = Access("direct").open(tmp_path / "some")
        asked = direct_alignment(fd)
        os.close(fd)
    except OSError as error:
        pytest.skip(f"no direct reads here: {error}")
    if asked is None or asked[1] == 1:
        pytest.skip("direct reads need no alignment here, or there are none")
    agree(binary, tmp_path, 2, 10, 50, *map(str, asked))


@pytest.mark.slow
def test_a_million_steps(binary: Path, tmp_path: Path):
    for seed in range(10):  # a hundred layers of a thousand steps, ten times
        agree(binary, tmp_path, seed=100 + seed, blocks=100, steps=1000)
