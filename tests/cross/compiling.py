"""Compiles the native sources for macOS on arm64 with zig's clang, an object once for the same inputs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from moe_mlx.native import build
from tests.cross import wheels

ZIG = "0.17.1"
#: Only these see Python's headers; the others are compiled once for every Python.
_PYTHON_UNITS = ("module.cpp", "nb_combined.cpp")
#: zig's headers are set up for a libc++ that is linked in. MLX's objects and exceptions come from macOS's own one, so
#: that ours has to be that one too: what the release has not is not used, and what is its own is looked for there.
_SYSTEM_LIBCXX = (
    "-U_LIBCPP_DISABLE_VISIBILITY_ANNOTATIONS",
    "-U_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS",
    "-D_LIBCPP_HAS_VENDOR_AVAILABILITY_ANNOTATIONS=1",
    "-fno-sized-deallocation",
)


class DoesNotCompileError(Exception):
    """What the compiler said of a source."""


@dataclass(frozen=True)
class Target:
    """A macOS release and what is compiled against: folders of headers."""

    macos: str
    mlx: Path
    nanobind: Path
    pythons: dict[str, Path]


def zig() -> Path:
    """Returns zig, from the package of that name.

    Raises:
        WheelsUnavailableError: it cannot be had.
    """
    path = wheels.unpacked(wheels.fetch("ziglang", ZIG)) / "ziglang" / "zig"
    path.chmod(0o755)
    return path


def flags(target: Target, python: Path | None) -> list[str]:
    """Returns the build's own flags, for another machine."""
    includes = [target.nanobind / "include", target.nanobind / "ext/robin_map/include", target.mlx / "include"]
    if python is not None:
        includes.append(python)
    kept = [flag for flag in build.FLAGS if flag not in {"-arch", "arm64"}]
    return [
        "-target",
        f"aarch64-macos.{target.macos}.0",
        *kept,
        *_SYSTEM_LIBCXX,
        "-Wno-nullability-completeness",
        *(part for path in includes for part in ("-isystem", str(path))),
    ]


def objects(compiler: Path, target: Target) -> dict[str, list[Path]]:
    """Compiles everything.

    Returns:
        The objects of each Python's extension.

    Raises:
        DoesNotCompileError: naming the source and the first error.
    """
    sources = [*(build.FOLDER / unit for unit in build.UNITS), target.nanobind / "src/nb_combined.cpp"]
    wanted: list[tuple[str, Path, Path | None]] = []
    for source in sources:
        if source.name in _PYTHON_UNITS:
            wanted += [(version, source, headers) for version, headers in target.pythons.items()]
        else:
            wanted.append(("", source, None))
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        made = list(threads.map(lambda one: _object(compiler, target, one[1], one[2]), wanted))
    pairs = list(zip(wanted, made, strict=True))
    return {version: [path for (of, _, _), path in pairs if of in ("", version)] for version in target.pythons}


def _object(compiler: Path, target: Target, source: Path, python: Path | None) -> Path:
    command = [str(compiler), "c++", *flags(target, python), "-c", str(source)]
    running = hashlib.sha256("\0".join(command).encode())
    for path in sorted({source, *build.FOLDER.rglob("*.h")}):
        running.update(path.read_bytes())
    made = wheels.cache_folder() / "objects" / f"{source.stem}-{running.hexdigest()[:24]}.o"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        beside = made.with_suffix(f".{os.getpid()}.o")
        environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(wheels.cache_folder() / "zig")}
        done = subprocess.run(
            [*command, "-o", str(beside)], capture_output=True, text=True, timeout=900, check=False, env=environment
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise DoesNotCompileError(f"{source.name} for macOS {target.macos}: {first.strip()[:300]}")
        beside.replace(made)
    return made
