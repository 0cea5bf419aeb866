"""What came with the wheel is used without a compiler where all agrees; where anything differs, one is built.

Here it is Linux's own build, put where `make wheel-mac` puts macOS's.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.loading import decode_way, extension, prebuilt_trial
from moe_mlx.native import build, prebuilt
from moe_mlx.native.toolchain import NativeUnavailableError

ROOT = Path(__file__).parents[2]
SOABI = str(sysconfig.get_config_var("SOABI"))
Record = dict[str, Any]


@pytest.fixture
def library(native: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One that fits, as if it had come with the package; no compiler, and nothing built, tried or imported yet."""
    folder = tmp_path / "binaries"
    folder.mkdir()
    path = folder / f"{build.MODULE}.{SOABI}.so"
    shutil.copy(native.__file__, path)
    write(path)
    monkeypatch.setattr(prebuilt, "FOLDER", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.delitem(sys.modules, build.MODULE)
    return path


def write(path: Path, change: Callable[[Record], Any] = lambda record: None) -> None:
    """Writes the record of an extension, changed."""
    record = prebuilt.record_of({SOABI: path}, mlx=version("mlx"), system=sys.platform, machine=platform.machine())
    change(record)
    (path.parent / prebuilt.RECORD).write_text(json.dumps(record))


def test_what_fits_is_found(library: Path):
    assert prebuilt.find() == (library, "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: record.update(mlx="0.32.3"), "it is for mlx 0.32.3, {mlx} is installed"),
        (lambda record: record.update(mlx=f"{version('mlx')}.1"), "it is for mlx {mlx}.1, {mlx} is installed"),
        (lambda record: record.update(system="darwin", machine="arm64"), "it is for darwin arm64, this is {here}"),
        (
            lambda record: record.update(libraries={"cpython-399": record["libraries"][SOABI]}),
            "it is for cpython-399, this Python is {soabi}",
        ),
        (lambda record: record.update(sources="0" * 64), "it was made from other sources than these"),
        (
            lambda record: record["libraries"][SOABI].update(name="none.so"),
            "its file cannot be read (No such file",
        ),
        (lambda record: record["libraries"][SOABI].update(bytes=1), "its file is damaged ({path})"),
        (lambda record: record.pop("libraries"), "its record is of another form"),
        (lambda record: record.update(libraries=[SOABI]), "its record is of another form"),
    ],
    ids=["mlx", "mlx's patch", "system", "abi", "sources", "no file", "damaged", "no libraries", "a list"],
)
def test_what_differs_is_said_and_one_is_built(library: Path, change: Callable[[Record], Any], reason: str):
    write(library, change)
    here = f"{sys.platform} {platform.machine()}"
    expected = reason.format(mlx=version("mlx"), here=here, soabi=SOABI, path=library)
    said: list[str] = []
    with pytest.raises(NativeUnavailableError, match="no C\\+\\+ compiler"):  # building one was tried
        extension.load_extension(said.append)
    (line,) = said
    assert line.startswith(f"the in-graph decode that came with this package is not used: {expected}")


def test_a_flipped_byte_is_not_loaded(library: Path):
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(data)
    assert prebuilt.find().reason == f"its file is damaged ({library})"


def test_where_none_came_along_nothing_is_said(library: Path):
    (library.parent / prebuilt.RECORD).unlink()
    said: list[str] = []
    with pytest.raises(NativeUnavailableError, match="no C"):
        extension.load_extension(said.append)
    assert said == []
    (library.parent / prebuilt.RECORD).write_bytes(b"\xff")
    assert prebuilt.find().reason == "its record cannot be read"


START = """
import sys
from pathlib import Path
import moe_mlx
from moe_mlx.native import prebuilt
prebuilt.FOLDER = Path(sys.argv[1])
model, _ = moe_mlx.load("demo", expert_cache="25%", say=print)
print(moe_mlx.runtime_of(model).decode_way, sys.modules["_moe_mlx_native"].__file__)
moe_mlx.runtime_of(model).close()
"""


@pytest.mark.slow
def test_it_is_tried_once_and_used_without_a_compiler(library: Path, tmp_path: Path):
    strange = tmp_path / "strange"  # what lies where a start happens is not imported by the trial
    (strange / "moe_mlx").mkdir(parents=True)
    (strange / "moe_mlx/__init__.py").write_text("raise SystemExit('a stranger')\n")
    environment = {name: text for name, text in os.environ.items() if name != "MOE_MLX_DECODE"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-P", "-c", START, str(library.parent)]
    starts = [
        subprocess.run(command, env=environment, cwd=strange, capture_output=True, text=True, timeout=120, check=False)
        for _ in range(2)
    ]
    assert [start.returncode for start in starts] == [0, 0], starts[0].stderr
    first, second = ([line for line in start.stdout.splitlines() if "decode" in line] for start in starts)
    assert first[0].startswith("trying the in-graph decode that came with this package, once")
    assert first[1:] == second == ["decode runs in the graph: self-check passed"]
    assert all(start.stdout.splitlines()[-1] == f"native {library}" for start in starts)
    assert not list((tmp_path / "cache").rglob("*.so"))


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("damage", ["text", "cut"])
def test_what_cannot_be_loaded_ends_its_trial_and_nothing_else(library: Path, damage: str):
    data = library.read_bytes()
    library.write_bytes(b"no library\n" if damage == "text" else data[: len(data) // 2])
    write(library)
    reasons = []
    for _ in range(2):
        said: list[str] = []
        with pytest.raises(NativeUnavailableError, match="no C"):
            extension.load_extension(said.append)
        reasons.append(said)
    first, second = reasons
    assert first[0].startswith("trying") and "is not used: tried, " in first[1]
    assert len(second) == 1 and "0 minutes ago (remove " in second[0]  # for a day it is not tried again


def test_a_trial_that_hangs_has_an_end(library: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(extension, "TRIAL_SECONDS", 0.01)
    said: list[str] = []
    with pytest.raises(NativeUnavailableError, match="no C"):
        extension.load_extension(said.append)
    assert said[1].endswith("is not used: tried, it had not ended after 0.01 s")


def test_a_trial_whose_self_check_fails_says_so(
    native: Any, library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(build, "import_module", lambda path: sys.modules.setdefault(build.MODULE, native))
    monkeypatch.setattr(sys, "argv", ["prebuilt_trial", str(library)])
    assert prebuilt_trial.main() == 0
    monkeypatch.setattr(decode_way, "self_check", lambda *_, **__: "self-check: the logits differ")
    assert prebuilt_trial.main() == 1
    assert capsys.readouterr().out.endswith("not available here: self-check: the logits differ\n")


def test_a_self_check_that_fails_on_a_model_lets_the_next_start_build_one(
    native: Any, library: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(native, "__file__", str(library))
    monkeypatch.setitem(sys.modules, build.MODULE, native)
    monkeypatch.setattr(decode_way, "self_check", lambda *_, **__: "self-check: the logits differ")
    monkeypatch.delenv("MOE_MLX_DECODE", raising=False)
    model, _ = moe_mlx.load(tiny(), expert_cache="25%", say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    runtime.close()
    wanted = "self-check: the logits differ; it came with this package, the next start builds one here"
    assert (runtime.decode_way, runtime.decode_reason) == ("readback", wanted)
    monkeypatch.delitem(sys.modules, build.MODULE)
    said: list[str] = []
    with pytest.raises(NativeUnavailableError, match="no C"):
        extension.load_extension(said.append)
    assert "is not used: self-check: the logits differ, 0 minutes ago" in said[0]
