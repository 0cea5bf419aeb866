"""Compiles the native sources for macOS and checks what they need against MLX's own library: `make check-mac`.

For each macOS release and Python: it compiles and links; every symbol that is used is exported where the loader will
look for it (MLX's library, Python, what macOS 14 is known to have); the libraries it loads, the oldest release and the
ad hoc signature are right; the ABI tag of nanobind equals that of MLX's extension. Nothing of it runs: there is no Mac
here. Exit code 0 where all that could be checked is right, 1 for a fault, 3 where a package could not be had, so that a
skip is no pass.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path

from moe_mlx.native import abi
from tests.cross import loadable, wheels
from tests.cross.compiling import DoesNotCompileError, Target, objects, zig
from tests.cross.linking import DoesNotLinkError, link
from tests.cross.macho import Symbols, read_symbols
from tests.cross.pythons import VERSIONS, headers_of

RELEASES = ("14", "15")
NOT_CHECKED = 3
_TAG = re.compile(rb"nanobind_\w*abi\w*_v\d+(?=\0)")


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macos", default=",".join(RELEASES), help="releases, separated by commas (default: 14,15)")
    args = parser.parse_args()
    started = time.monotonic()
    pythons = {name: found for name in VERSIONS if (found := headers_of(name)) is not None}
    for name in VERSIONS:
        if name not in pythons:
            print(f"NOT CHECKED: Python {name}, whose headers are not on this machine", file=sys.stderr)
    if not pythons:
        return NOT_CHECKED
    try:
        faults = [fault for release in args.macos.split(",") for fault in check(release, pythons)[0]]
    except wheels.WheelsUnavailableError as error:
        print(f"NOT CHECKED: macOS; a package cannot be had: {error}", file=sys.stderr)
        return NOT_CHECKED
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    print(f"{len(faults)} faults, {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


def check(macos: str, pythons: dict[str, Path]) -> tuple[list[str], dict[str, Path]]:
    """Compiles, links and checks for one macOS release, and prints what was checked.

    Returns:
        What is wrong, one line each, and each Python's extension.

    Raises:
        WheelsUnavailableError: a package cannot be had.
    """
    release, platform = version("mlx"), f"macosx_{macos}_0_arm64"
    library = wheels.unpacked(wheels.fetch("mlx-metal", release, platform=platform, python="3.12")) / "mlx"
    nanobind = wheels.unpacked(wheels.fetch("nanobind", abi.NANOBIND_OF[release][0])) / "nanobind"
    target, mlx = Target(macos, library, nanobind, pythons), (library / "lib/libmlx.dylib").read_bytes()
    try:
        made = objects(zig(), target)
        linked = {python: link(zig(), target, python, paths) for python, paths in made.items()}
    except (DoesNotCompileError, DoesNotLinkError) as error:
        return [str(error)], {}
    faults = []
    for python, paths in made.items():
        extension = wheels.unpacked(wheels.fetch("mlx", release, platform=platform, python=python))
        core = next((extension / "mlx").glob("core.*.so")).read_bytes()
        found = [read_symbols(path.read_bytes()) for path in paths]
        own = frozenset(name for one in found for name in one.defined)
        data, there = linked[python].read_bytes(), loadable.known(mlx, core, pythons[python])
        lines = [*faults_of(paths, there.mlx, core), *loadable.faults_of(data, macos, there, own)]
        faults += [f"macOS {macos}, Python {python}: {line}" for line in lines]
        used = f"{len(needed_of_mlx(found))} symbols of MLX {release}"
        print(f"macOS {macos}, Python {python}: {len(paths)} sources, {used}, {len(data)} bytes")
    return faults, linked


def needed_of_mlx(found: list[Symbols]) -> set[str]:
    """Returns the symbols of MLX's that some objects use and none of them defines."""
    defined = {name for one in found for name in one.defined}
    return {name for one in found for name in one.undefined if "3mlx4core" in name} - defined


def faults_of(paths: list[Path], exported: frozenset[str], core: bytes) -> list[str]:
    """Returns what keeps an extension from working with MLX's library and its Python extension."""
    objects_bytes = [path.read_bytes() for path in paths]
    needed = needed_of_mlx([read_symbols(data) for data in objects_bytes])
    faults = [f"libmlx.dylib does not export {name}" for name in sorted(needed - exported)]
    if not needed:
        faults.append("nothing of MLX's is used, which cannot be")
    ours = {tag for data in objects_bytes for tag in _TAG.findall(data)}
    theirs = set(_TAG.findall(core))
    if len(ours) != 1 or not ours <= theirs:
        faults.append(f"nanobind's ABI is {sorted(ours)}, MLX's {sorted(theirs)}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
