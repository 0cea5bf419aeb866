"""The built wheel works by itself, demo model included, and adds only three names to the top level."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
