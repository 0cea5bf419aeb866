"""The clipboard of the machine that the app runs on, beside the terminal's own way (OSC 52), which some have not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress

_SECONDS = 2


def program() -> list[str] | None:
    """Returns the command that takes a text into the clipboard; None over SSH, or where there is none."""
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return None
    wanted: list[list[str]] = []
    if sys.platform == "darwin":
        wanted.append(["pbcopy"])
    if os.environ.get("WAYLAND_DISPLAY"):
        wanted.append(["wl-copy"])
    if os.environ.get("DISPLAY"):
        wanted += [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]]
    return next((command for command in wanted if shutil.which(command[0])), None)


def copy(text: str) -> None:
    """Hands a text to the machine's clipboard, if it has one that can be reached."""
    if (command := program()) is not None:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                command,
                input=text.encode(),
                check=False,
                timeout=_SECONDS,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
