"""The built wheel works by itself, demo model included, and adds only three names to the top level."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cross import wheel_mac

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return next(folder.glob("*.whl"))


def test_top_level_holds_only_our_packages(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"moe_mlx", "moe_mlx_convert", "moe_mlx_tui"}
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    assert "moe_mlx/demo_model/config.json" in names
    assert not [name for name in names if "__pycache__" in name]


def test_installed_from_the_wheel_the_demo_answers(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    program = (
        "import sys, moe_mlx.cli, moe_mlx.store.demo; print(moe_mlx.store.demo.demo_path()); "
        "sys.exit(moe_mlx.cli.main())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, "generate", "-p", "hello", "-m", "8"],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    first, answer = run.stdout.split("\n", 1)
    assert Path(first).is_relative_to(target)
    assert answer.strip()


def test_a_wheel_for_macos_holds_its_extensions_and_no_other_does(wheel: Path, tmp_path: Path):
    library = tmp_path / "linked" / "_moe_mlx_native.cpython-312-darwin.so"
    library.parent.mkdir()
    library.write_bytes(b"as it was signed")
    (tmp_path / "binaries").mkdir()
    wheel_mac.put_together({"3.12": library}, tmp_path / "binaries")
    made = wheel_mac.build_wheel(tmp_path / "binaries", "py3-none-macosx_14_0_arm64", tmp_path / "out")
    assert made.name.endswith("-py3-none-macosx_14_0_arm64.whl")
    with zipfile.ZipFile(made) as archive:
        folder = "moe_mlx/native/binaries"
        assert archive.read(f"{folder}/{library.name}") == b"as it was signed"
        record = json.loads(archive.read(f"{folder}/record.json"))
        (about,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
    assert (record["system"], record["machine"], list(record["libraries"])) == (
        "darwin",
        "arm64",
        ["cpython-312-darwin"],
    )
    assert "Tag: py3-none-macosx_14_0_arm64\n" in about and "Root-Is-Purelib: false\n" in about
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "binaries" in name]
    assert wheel.name.endswith("-py3-none-any.whl")
