"""Where the system grants few threads: fewer readers and a word about it, or one line of error; never an abort."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moe_mlx.errors import ThreadsRefusedError, UsageError
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.store import open_source
from moe_mlx.store.demo import demo_path
from moe_mlx.system import threads
from moe_mlx.system.calibration import MOST_READERS, check_readers
from tests.ordinary_user import as_an_ordinary_user

GROUPS = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
SPARE = threads._SPARE
READER = {"root": "", "way": "cached", "memory": 1, "block": 1, "bounce": 0, "log": 0, "keep": object()}
GENERATE = ["generate", "--model", "demo", "--expert-cache", "25%", "--max-tokens", "4", "--prompt", "hi"]


def leave(number: int) -> None:
    """Lets this user start `number` threads beyond the one that runs."""
    resource.setrlimit(resource.RLIMIT_NPROC, (number + 1, number + 1))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="limits an ordinary user's threads as root")
@pytest.mark.parametrize(("left", "readers"), [(SPARE + 1, 1), (SPARE + 3, 3), (SPARE + 40, 8)])
def test_as_many_readers_as_the_system_grants(left: int, readers: int):
    def check() -> None:
        leave(left)
        assert threads.granted(8) == readers
        with open_source(demo_path()) as source:
            pool = ReaderPool(source, 8)
            assert pool.readers == readers
            pool.wait_idle()  # they have all begun
            pool.close()

    as_an_ordinary_user(check)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="limits an ordinary user's threads as root")
@pytest.mark.parametrize("left", [0, 1, SPARE])
def test_too_few_threads_are_an_error_with_a_next_step(left: int):
    def check() -> None:
        leave(left)
        for ask in (lambda: threads.granted(1), lambda: threads.started_pool(left + 1, "none")):
            with pytest.raises(ThreadsRefusedError, match="Raise the limit"):
                ask()

    as_an_ordinary_user(check)


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="limits an ordinary user's threads as root")
@pytest.mark.parametrize("left", [0, 1, 3])
def test_the_primitive_s_threads_are_fewer_or_an_error(left: int):
    try:
        module = build.load_native(lambda line: None)
    except NativeUnavailableError as error:
        pytest.skip(str(error))

    def check() -> None:
        leave(left)
        if left == 0:
            with pytest.raises(RuntimeError) as refused:
                module.Reader(threads=8, **READER)
            assert threads.is_refusal(refused.value)
            return
        reader = module.Reader(threads=8, **READER)
        with pytest.raises(RuntimeError):  # it has taken what there was
            module.Prefetcher(reader, 2, 1, 1)

    as_an_ordinary_user(check)


@pytest.mark.parametrize("readers", [MOST_READERS + 1, 40_000, 10**30, 0, True])
def test_an_absurd_number_of_readers_is_refused(readers: int):
    with pytest.raises(UsageError, match="readers is"):
        check_readers(readers)


@pytest.fixture
def limited() -> Iterator[Callable[[int, list[str]], tuple[int, str]]]:
    """Runs the program in a group of so many processes and threads; returns exit code and standard error."""
    parent = next((folder for folder in GROUPS if (folder / "cgroup.procs").exists()), None)
    group = parent / f"moe-mlx-{os.getpid()}" if parent else Path("/none")
    try:
        group.mkdir()
        (group / "pids.max").write_text("max")
    except OSError as error:
        pytest.skip(f"no control group of processes: {error}")

    def run(most: int, words: list[str]) -> tuple[int, str]:
        (group / "pids.max").write_text(str(most))
        done = subprocess.run(
            [sys.executable, "-m", "moe_mlx", *words],
            capture_output=True,
            timeout=300,
            check=False,
            env={**os.environ, "RUST_BACKTRACE": "0"},
            encoding="utf-8",
            preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())),
        )
        return done.returncode, done.stderr

    yield run
    group.rmdir()


@pytest.mark.slow
@pytest.mark.parametrize("most", [4, 6, 8, 10, 13, 16, 20, 40])
def test_few_processes_end_in_an_answer_or_in_one_line(limited: Callable[[int, list[str]], tuple[int, str]], most: int):
    code, said = limited(most, GENERATE)
    assert code in (0, 1), said
    assert "terminate called" not in said and "unexpected" not in said
    last = said.strip().splitlines()[-1]
    assert last.startswith("[" if code == 0 else "moe-mlx generate: the system lets this program start no more threads")
    assert most not in (4, 40) or code == (most == 4)
