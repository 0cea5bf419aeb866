"""Kills the converter at random moments and resumes it: `python kill_and_resume.py SOURCE WORK KILLS SEED WAY`.

A process of its own, which never asks MLX for anything, so that each conversion is one fork. Prints one JSON object:
kills that hit, kills that came too late, resumes that took files over, and `wrong`, which must be zero.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.fault.ways import ALL_WAYS, FEWER, Run


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def made(convert: Run, source: Path, store: Path) -> int:
    """Converts in a child and returns how many files it took over from an earlier one.

    Raises:
        RuntimeError: it failed.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(tell, str(convert(source, store).files_resumed).encode())
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    os.close(tell)
    with os.fdopen(told) as answer:
        resumed = answer.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"{store} was not made")
    return int(resumed)


def killed(convert: Run, source: Path, store: Path, after: float) -> bool:
    """Converts in a child and kills it after some seconds; False if it was faster."""
    child = os.fork()
    if child == 0:
        try:
            convert(source, store)
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def main() -> None:
    source, work, kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    convert = ALL_WAYS[sys.argv[5]]
    if sys.argv[5] == FEWER:
        import tests.fewer_bits  # noqa: F401 - once, and not in every child
    chance = random.Random(seed)
    before = contents(source)
    begun = time.monotonic()
    made(convert, source, work / "reference")
    length = time.monotonic() - begun
    reference = contents(work / "reference")
    store, partial = work / "store", work / "store.partial"
    told = {"kills": 0, "late": 0, "resumed": 0, "again": 0, "wrong": 0}
    while told["kills"] < kills and told["late"] < 4 * kills + 20:
        if not killed(convert, source, store, chance.uniform(0, 1.2 * length)):
            told["late"] += 1
        else:
            told["kills"] += 1
            if store.exists() and contents(store) != reference:
                told["wrong"] += 1
            if chance.random() < 0.3 and not store.exists():  # and once more, while it resumes
                told["again"] += killed(convert, source, store, chance.uniform(0, length))
            if partial.exists():
                told["resumed"] += made(convert, source, store) > 0
            elif not store.exists():
                made(convert, source, store)
        if contents(store) != reference or partial.exists() or contents(source) != before:
            told["wrong"] += 1
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(partial, ignore_errors=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
