"""The built extension between two starts: where it lies, whether it is whole, and who builds it.

A library that is cut or has a hole ends the process that loads it (SIGBUS, SIGSEGV), so none is loaded before its size
and digest are those that were written down beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xxhash import xxh3_128

from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.system.folders import user_folder
from moe_mlx.system.whole_files import put_in_place, write_whole

#: How long a compiler that did not finish is not tried again.
REST_SECONDS = 24 * 3600
#: How often a start looks whether another's build has ended.
_INTERVAL = 0.1


def cache_folder() -> Path:
    """Returns where builds are kept: in the platform's cache folder.

    Raises:
        NativeUnavailableError: there is no home folder.
    """
    try:
        return user_folder() / "native"
    except RuntimeError as error:
        raise NativeUnavailableError(f"no cache folder: {error}") from None


def _seal_of(library: Path) -> Path:
    return library.with_suffix(".seal")


def _description(library: Path) -> str:
    """Size and digest of a file; it is read, not mapped: a bad sector is an error and no signal."""
    data = library.read_bytes()
    return f"{len(data)} bytes, XXH3-128 {xxh3_128(data).hexdigest()}\n"


def is_whole(library: Path) -> bool:
    """Returns whether a built library is there and is what was written."""
    try:
        return _seal_of(library).read_bytes() == _description(library).encode()
    except OSError:
        return False


def keep(made: Path, library: Path) -> None:
    """Gives a finished build its place; both files are with the drive before they get their names.

    Raises:
        NativeUnavailableError: what was written cannot be read back.
        OSError: from the operating system.
    """
    description = _description(made)
    library.parent.mkdir(mode=0o700, exist_ok=True)
    put_in_place(made, library)
    write_whole(_seal_of(library), description, private=True)
    if not is_whole(library):
        raise NativeUnavailableError(f"the disk does not give back what was built ({library})")


@contextmanager
def alone(home: Path, say: Callable[[str], None], seconds: float) -> Iterator[None]:
    """Lets one process at a time build `home`; a second one waits and says what for.

    Args:
        home: The folder of the build.
        say: Gets a line when another process builds it.
        seconds: Longest wait.

    Raises:
        NativeUnavailableError: the other one has not ended by then.
        OSError: from the operating system.
    """
    with home.with_suffix(".lock").open("a+") as file:
        deadline = time.monotonic() + seconds
        told = False
        while not _lock(file.fileno()):
            if not told:
                file.seek(0)
                who = file.read(20).strip()
                named = f"process {who}" if who.isdecimal() else "another process"
                say(f"waiting for {named}, which builds the in-graph decode ({seconds / 60:g} minutes at most)")
                told = True
            if time.monotonic() > deadline:
                raise NativeUnavailableError(f"another process has been building it for {seconds:g} s")
            time.sleep(_INTERVAL)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def workshop(home: Path) -> Iterator[Path]:
    """Yields a folder to build in; called by who builds alone, so that another such folder is a killed build's.

    Raises:
        OSError: from the operating system.
    """
    prefix = f"{home.name}.work-"
    for left in home.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def check_rested(home: Path) -> None:
    """Refuses to try anew, within a day, what took too long: a compiler that hangs would hold up every start.

    Raises:
        NativeUnavailableError: it took too long less than a day ago.
    """
    note = home.with_suffix(".gave-up")
    with contextlib.suppress(OSError):
        age = time.time() - note.stat().st_mtime
        if abs(age) < REST_SECONDS:
            reason = note.read_bytes().decode(errors="replace").strip()
            raise NativeUnavailableError(f"{reason}, {age / 60:.0f} minutes ago (remove {note} to try again)")


def note_given_up(home: Path, reason: str) -> None:
    """Notes that a build took too long; where that cannot be noted, the next start finds out anew."""
    with contextlib.suppress(OSError):
        write_whole(home.with_suffix(".gave-up"), f"{reason}\n", private=True)
