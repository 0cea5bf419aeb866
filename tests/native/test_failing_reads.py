"""The system refuses a read of the graph: layer, expert, part and file are named, and the next answer is right."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from moe_mlx.native.toolchain import NativeUnavailableError, find_compiler
from tests.checkpoints import AFFINE4, tiny_checkpoint

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what comes before the C library is Linux's here")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Nested or not -> a store of five layers whose tokens take six of sixteen experts."""
    from moe_mlx_convert import convert

    folder = tmp_path_factory.mktemp("failing")
    tiny_checkpoint("qwen3_moe", folder / "model", quantization=AFFINE4, num_hidden_layers=5, num_experts_per_tok=6)
    for nested in (False, True):
        convert(folder / "model", folder / f"store-{nested}", nested=nested, compare=False)
    return {nested: folder / f"store-{nested}" for nested in (False, True)}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("disk") / "failing_reads.so"
    try:
        compiler = find_compiler()
    except NativeUnavailableError as error:
        pytest.skip(str(error))
    source = Path(__file__).with_name("failing_reads.c")
    subprocess.run([*compiler, "-xc", "-shared", "-fPIC", str(source), "-o", str(made), "-ldl"], check=True, timeout=60)
    return made


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize(
    ("light", "part"),
    [
        ("late-coarse", "coarse"),
        ("late-coarse", "rest"),
        ("coarse", "coarse"),
        ("coarse", "rest"),
        ("late", "whole"),
        ("exact", "whole"),
    ],
)
def test_a_read_that_the_system_refuses(native: Any, stores: dict[bool, Path], disk: Path, light: str, part: str):
    store = stores["coarse" in light]
    run = subprocess.run(
        [sys.executable, "-m", "tests.native.failing_reads", str(store), light, part],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env={**os.environ, "LD_PRELOAD": str(disk)},
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    named = "" if part == "whole" else f"{part} part: "
    assert found["told"]["reason"] == f"{named}{os.strerror(errno.EIO)}"
    file = Path(found["told"]["file"])
    layer, expert = (int(word.rsplit("-")[-1]) for word in (file.parent.name, file.stem))
    assert (found["told"]["layer"], found["told"]["expert"]) == (layer, expert)
    assert (found["again"], found["read_backs"]) == (True, 0)
