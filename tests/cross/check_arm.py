"""Runs decode in the graph on emulated arm64 Linux, against read-backs, bit for bit: `make check-arm`.

Python and the C library come from the distribution's packages for arm64, MLX and the rest from official aarch64 wheels,
and the program's own build runs with a cross compiler. All lies in the cache folder of `wheels`; nothing is installed.
Exit code 0 where every case is equal, 1 where one differs, 3 where a tool or package could not be had.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cross import wheels

NOT_CHECKED = 3
ROOT = Path(__file__).parents[2]
PYTHON = "3.11"
#: What is asked for, with its Debian package.
TOOLS = {
    "qemu-aarch64-static": "qemu-user-static",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
}
PACKAGES = (f"python{PYTHON}", f"libpython{PYTHON}-dev", "libstdc++6", "libgomp1", "libopenblas0-pthread", "liblapacke")
WHEELS = ("mlx[cpu]", "mlx-lm", "numpy", "huggingface-hub", "xxhash", "nanobind")


class NotCheckedError(Exception):
    """What could not be had."""


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="24", help="decoded in each case (default: 24)")
    args = parser.parse_args()
    try:
        for tool, package in TOOLS.items():
            if shutil.which(tool) is None:
                raise NotCheckedError(f"{tool} is not on this machine (Debian: {package})")
        command, environment = emulated(wheels.cache_folder() / "arm64")
    except NotCheckedError as error:
        print(f"NOT CHECKED: arm64; {error}", file=sys.stderr)
        return NOT_CHECKED
    words = [*command, "-m", "tests.cross.arm_cases", "--tokens", args.tokens]
    return 1 if subprocess.run(words, env=environment, cwd=ROOT, check=False).returncode else 0


def emulated(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the command of an arm64 Python with MLX, and its environment.

    Raises:
        NotCheckedError: a package cannot be had.
    """
    root, site = _once(folder / "root", _unpack_system), _once(folder / "site", _install_wheels)
    programs, scratch = _once(folder / "bin", _name_compiler), folder / "tmp"
    scratch.mkdir(exist_ok=True)
    paths = [ROOT, ROOT / "convert", ROOT / "tui", site]
    own = {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONHOME": str(root / "usr"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "MOE_MLX_HISTORY": "off",
        # A program of this machine, which the emulated build starts as it is.
        "CXX": f"aarch64-linux-gnu-g++ -idirafter {root}/usr/include",
        # MLX compiles with `g++`, and keeps what it made in the temporary folder: not in the one of this machine's MLX.
        "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        "TMPDIR": str(scratch),
        "OPENBLAS_NUM_THREADS": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENBLAS_"))}
    return ["qemu-aarch64-static", "-L", str(root), f"{root}/usr/bin/python{PYTHON}"], {**kept, **own}


def _once(folder: Path, make: Callable[[Path], None]) -> Path:
    if not folder.exists():
        beside = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        try:
            make(beside)
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return folder


def _unpack_system(folder: Path) -> None:
    """Unpacks the distribution's packages for arm64 with an apt of their own, so that this system's knows nothing."""
    state = folder / "apt"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").write_text("")
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",  # the folder may be one that apt's own user cannot enter
        "Dir::State": state / "state",
        "Dir::Cache": state / "cache",
        "Dir::State::status": state / "status",
    }
    apt = ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    _run([*apt, "update"])
    _run([*apt, "install", "-y", "--download-only", "--no-install-recommends", *PACKAGES])
    for package in sorted((state / "cache/archives").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(folder)])
    shutil.rmtree(state)


def _install_wheels(folder: Path) -> None:
    tags = [part for number in ("2_35", "2_28", "2_17") for part in ("--platform", f"manylinux_{number}_aarch64")]
    _run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "--only-binary", ":all:"),
            *(*tags, "--python-version", PYTHON, "--implementation", "cp"),
            *("-c", str(ROOT / "constraints.txt"), *WHEELS),
        ]
    )


def _name_compiler(folder: Path) -> None:
    folder.mkdir()
    (folder / "g++").symlink_to(str(shutil.which("aarch64-linux-gnu-g++")))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise NotCheckedError(f"{' '.join(command[:2])}: {said}")


if __name__ == "__main__":
    sys.exit(main())
