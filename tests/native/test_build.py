"""Where the primitive cannot be had, decode reads back and says why in one line; where it can, it is built once."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import moe_mlx
from moe_mlx.errors import UsageError
from moe_mlx.loading import decode_way
from moe_mlx.native import build
from tests.native.conftest import loaded


def way(folder: Path, decode: str = "auto", cap: str = "25%") -> tuple[str, str]:
    model, _ = moe_mlx.load(folder, expert_cache=cap, decode=decode, say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    runtime.close()
    return runtime.decode_way, runtime.decode_reason


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As if nothing had been built or imported yet."""
    monkeypatch.delitem(sys.modules, build.MODULE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_no_compiler(fresh: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert way(tiny()) == ("readback", "no C++ compiler (no-such-compiler)")
    with pytest.raises(UsageError, match="not available here: no C"):
        way(tiny(), "native")


def test_a_compiler_that_fails(fresh: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    compiler = fresh / "c++"
    compiler.write_text("#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'x.cpp:1: error: no' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert way(tiny()) == ("readback", "the compiler failed: x.cpp:1: error: no")
    assert not list((fresh / "moe-mlx").rglob("*.so"))


def test_no_nanobind(fresh: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    assert way(tiny())[1].endswith("is not installed (pip install nanobind)")


def test_a_cache_that_cannot_be_written(fresh: Path, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    (fresh / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "file"))
    monkeypatch.setattr(build, "find_compiler", lambda: ["true"])
    assert "cannot be used" in way(tiny())[1]


def test_a_failed_self_check(native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decode_way, "self_check", lambda *_, **__: "self-check: the logits differ")
    assert way(tiny()) == ("readback", "self-check: the logits differ")


def test_what_is_chosen_and_why(native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(decode_way.VARIABLE, raising=False)
    assert way(tiny()) == ("native", "self-check passed")
    assert way(tiny(), "native") == ("native", "as asked")
    assert way(tiny(), "readback") == ("readback", "as asked")
    assert way(tiny(), cap="100%")[0] == "readback"
    monkeypatch.setenv(decode_way.VARIABLE, "readback")
    assert way(tiny())[0] == "readback"
    with pytest.raises(UsageError, match="unknown decode 'fast'"):
        way(tiny(), "fast")


def test_the_self_check_leaves_no_trace(native: Any, tiny: Callable[..., Path]):
    _, _, runtime = loaded(tiny(), "native")
    assert all(owner == -1 for cache in runtime.layers for owner in cache.table.owner)
    assert (runtime.stats.decode.steps, runtime.stats.records) == (0, ())
    for cache in runtime.layers:
        table = cache.table
        assert not any(any(getattr(table, name)) for name in ("used", *table.COUNTS))
        assert (table.state.clock, table.state.range_tokens, table.state.stamp) == (0, 0, 0)


@pytest.mark.slow
def test_two_processes_build_one_extension(native: Any, fresh: Path):
    code = "from moe_mlx.native import build; build.load_native(lambda line: print('built'))"
    environment = {"XDG_CACHE_HOME": str(fresh), "PATH": "/usr/local/bin:/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(2)
    ]
    said = [process.communicate(timeout=900)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted(said) in (["", "built\n"], ["built\n", "built\n"])
    assert len(list((fresh / "moe-mlx/native").glob("*/*.so"))) == 1
    assert not list((fresh / "moe-mlx/native").glob("tmp*"))
