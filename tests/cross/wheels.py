"""Wheels of the registry, fetched by pip once into a cache folder; where they cannot be had, that is an error."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

#: Overrides the cache folder.
VARIABLE = "MOE_MLX_WHEELS"


class WheelsUnavailableError(Exception):
    """A wheel could not be fetched, and is not in the cache."""


def cache_folder() -> Path:
    """Returns where wheels and what was made of them are kept."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen) if chosen else Path.home() / ".cache" / "moe-mlx-cross"


def fetch(package: str, release: str, *, platform: str | None = None, python: str | None = None) -> Path:
    """Returns a wheel, from the cache or the registry.

    Args:
        package: Its name.
        release: Its exact version.
        platform: As pip's `--platform`; any by default.
        python: As pip's `--python-version`, with `platform`.

    Raises:
        WheelsUnavailableError: neither has it.
    """
    folder = cache_folder() / "wheels" / f"{package}-{release}-{platform or 'any'}-{python or 'any'}"
    if not (found := sorted(folder.glob("*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        command += ["--platform", platform] if platform else []
        command += ["--python-version", python] if python else []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                [*command, "-d", str(folder), f"{package}=={release}"],
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise WheelsUnavailableError(f"{package} {release}: {error}") from None
        found = sorted(folder.glob("*.whl"))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WheelsUnavailableError(f"{package} {release} ({platform or 'any system'}): {reason}")
    return found[-1]


def unpacked(wheel: Path) -> Path:
    """Returns the folder of a wheel's files, unpacked beside it once."""
    folder = wheel.with_suffix("")
    if not (folder / ".whole").exists():
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (folder / ".whole").write_text("")
    return folder
