"""Builds the wheel for macOS on arm64 with an extension for each Python, on a machine that is no Mac: `make wheel-mac`.

What goes in is compiled, linked and checked as `make check-mac` does for macOS 14, the oldest release that MLX's own
wheels are for. One wheel has all three: a Python that none of them is for builds its own. Exit codes as `check_mac`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from moe_mlx.native import prebuilt
from tests.cross import check_mac, wheels
from tests.cross.linking import soabi
from tests.cross.pythons import VERSIONS, headers_of

MACOS = "14"
ROOT = Path(__file__).parents[2]
#: Read by `.ci/wheel_hook.py`.
VARIABLE, TAG_VARIABLE = "MOE_MLX_BINARIES", "MOE_MLX_WHEEL_TAG"


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheel (default: dist)")
    args = parser.parse_args()
    pythons = {name: found for name in VERSIONS if (found := headers_of(name)) is not None}
    if missing := [name for name in VERSIONS if name not in pythons]:
        print(f"NOT BUILT: the headers of Python {', '.join(missing)} are not on this machine", file=sys.stderr)
        return check_mac.NOT_CHECKED
    try:
        faults, linked = check_mac.check(MACOS, pythons)
    except wheels.WheelsUnavailableError as error:
        print(f"NOT BUILT: a package cannot be had: {error}", file=sys.stderr)
        return check_mac.NOT_CHECKED
    for fault in faults:
        print(f"FAULT: {fault}", file=sys.stderr)
    if faults:
        return 1
    with tempfile.TemporaryDirectory(prefix="moe-mlx-wheel-") as folder:
        put_together(linked, Path(folder))
        print(build_wheel(Path(folder), f"py3-none-macosx_{MACOS}_0_arm64", args.out))
    return 0


def put_together(linked: dict[str, Path], folder: Path) -> None:
    """Copies extensions, by the Python they are for, into a folder and writes their record."""
    made = {}
    for python, library in linked.items():
        made[soabi(python)] = folder / library.name
        shutil.copy(library, made[soabi(python)])
    record = prebuilt.record_of(made, mlx=version("mlx"), system="darwin", machine="arm64")
    (folder / prebuilt.RECORD).write_text(json.dumps(record, indent=1) + "\n")


def build_wheel(binaries: Path, tag: str, out: Path) -> Path:
    """Builds a wheel with what a folder holds and returns it; the tools' own words go to standard error.

    Raises:
        subprocess.CalledProcessError: it could not be built.
    """
    with tempfile.TemporaryDirectory(prefix="moe-mlx-wheel-") as folder:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)]
        environment = {**os.environ, VARIABLE: str(binaries), TAG_VARIABLE: tag}
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr, timeout=300)
        (made,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(made, out))


if __name__ == "__main__":
    sys.exit(main())
