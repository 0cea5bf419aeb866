"""Headers of the Pythons to compile against, from the interpreters of this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13")


def headers_of(version: str) -> Path | None:
    """Returns the folder with Python.h of a version ("3.12"): of an interpreter, a distribution's, pyenv's or uv's."""
    include = f"include/python{version}"
    homes = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    homes.append(Path(os.environ.get("UV_PYTHON_INSTALL_DIR", Path.home() / ".local/share/uv/python")))
    found = [folder for home in homes for folder in sorted(home.glob(f"*/{include}"))]
    found += [Path(prefix) / include for prefix in ("/usr", "/usr/local", "/opt/homebrew")]
    if (told := _told_by_interpreter(version)) is not None:
        found.insert(0, told)
    return next((folder for folder in found if _serves(folder, version)), None)


def _serves(folder: Path, version: str) -> bool:
    """Whether it has that version's headers for any system; Debian's pick those of one of its own."""
    if not (folder / "Python.h").is_file() or version not in _version_in(folder):
        return False
    return "unknown multiarch" not in (folder / "pyconfig.h").read_text()


def _told_by_interpreter(version: str) -> Path | None:
    interpreter = shutil.which(f"python{version}")
    if interpreter is None:
        return None
    code = "import sysconfig; print(sysconfig.get_paths()['include'])"
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def _version_in(folder: Path) -> str:
    found = re.search(r'PY_VERSION\s+"([^"]+)"', (folder / "patchlevel.h").read_text())
    return found[1] if found else ""
