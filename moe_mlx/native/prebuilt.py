"""The extension that a wheel brings along: used only where it was made for exactly this MLX, Python and source.

A wheel for macOS has one for each Python and a record of them (`make wheel-mac`); every other install has none. What a
record says is compared with what is here, the file's own bytes too, before a process loads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from xxhash import xxh3_128

from moe_mlx.native import build, kept

FOLDER = Path(__file__).parent / "binaries"
RECORD = "record.json"
#: From the folder of the binaries to MLX's libraries in the same site-packages. The loaders take the one that is loaded
#: already (dyld by its install name, ld.so by its soname), so that this is only where they would look otherwise.
MLX_LIBRARIES = "../../../mlx/lib"


class Found(NamedTuple):
    """What came along.

    Attributes:
        library: The extension; None where none fits, or none came along.
        reason: Why none fits, in a few words; nothing where one does, or none came along.
    """

    library: Path | None
    reason: str = ""


def find() -> Found:
    """Returns the extension that came along and fits what is installed here."""
    try:
        record = json.loads((FOLDER / RECORD).read_bytes())
    except FileNotFoundError:
        return Found(None)
    except (OSError, ValueError):
        return Found(None, "its record cannot be read")
    try:
        name, reason = _choose(record)
    except (AttributeError, KeyError, TypeError, ValueError):
        return Found(None, "its record is of another form")
    return Found(None, reason) if reason else Found(FOLDER / name)


def _choose(record: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the file's name in the folder, and why it does not fit."""
    made_for, here = (record["system"], record["machine"]), (sys.platform, platform.machine())
    if made_for != here:
        return "", f"it is for {' '.join(made_for)}, this is {' '.join(here)}"
    if (installed := version("mlx")) != record["mlx"]:
        return "", f"it is for mlx {record['mlx']}, {installed} is installed"
    soabi = str(sysconfig.get_config_var("SOABI"))
    if soabi not in record["libraries"]:
        return "", f"it is for {', '.join(sorted(record['libraries']))}, this Python is {soabi}"
    if record["sources"] != sources_digest():
        return "", "it was made from other sources than these"
    library = record["libraries"][soabi]
    name = Path(library["name"]).name
    try:
        if describe(FOLDER / name) != library:
            return "", f"its file is damaged ({FOLDER / name})"
    except OSError as error:
        return "", f"its file cannot be read ({error.strerror})"
    return name, ""


def describe(library: Path) -> dict[str, Any]:
    """Returns a file's name, size and digest, as a record has them.

    Raises:
        OSError: from the operating system.
    """
    data = library.read_bytes()
    return {"name": library.name, "bytes": len(data), "xxh3_128": xxh3_128(data).hexdigest()}


def record_of(libraries: Mapping[str, Path], *, mlx: str, system: str, machine: str) -> dict[str, Any]:
    """Returns the record of some extensions that were made from the sources as they are.

    Args:
        libraries: By the Python's `SOABI`, each in the folder that the record will lie in.
        mlx: Version of the MLX they were linked to.
        system: As `sys.platform`.
        machine: As `platform.machine()`.
    """
    return {
        "mlx": mlx,
        "system": system,
        "machine": machine,
        "sources": sources_digest(),
        "libraries": {soabi: describe(library) for soabi, library in libraries.items()},
    }


def sources_digest() -> str:
    """Returns the digest of the primitive's sources and of the flags that are everywhere the same."""
    running = hashlib.sha256("\0".join(build.COMMON_FLAGS).encode())
    for path in build.sources():
        running.update(path.relative_to(build.FOLDER).as_posix().encode() + b"\0" + path.read_bytes())
    return running.hexdigest()


def verdict_home(library: Path) -> Path:
    """Returns where it is noted whether an extension worked here, without the suffix: a note for each system.

    Raises:
        NativeUnavailableError: there is no home folder.
    """
    parts = [str(library), describe(library)["xxh3_128"], version("mlx"), sys.executable, platform.release()]
    return kept.cache_folder() / f"prebuilt-{hashlib.sha256(os.fsencode(chr(0).join(parts))).hexdigest()[:24]}"
