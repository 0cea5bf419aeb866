"""The prompt in the user's own editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

from moe_mlx.errors import MoeMlxError


def editor() -> list[str]:
    """Returns the command: `$VISUAL`, `$EDITOR`, or vi."""
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        return shlex.split(named) or ["vi"]
    except ValueError:
        return [named]


def edited(text: str) -> str:
    """Lets the user edit a text and returns it. The terminal is the editor's meanwhile.

    Raises:
        MoeMlxError: the editor cannot be started, or says that it failed; the text is to stay as it is.
    """
    command = editor()
    with tempfile.TemporaryDirectory(prefix="moe-mlx-") as folder:
        path = Path(folder) / "message.md"
        try:
            path.write_text(text, encoding="utf-8")
            code = subprocess.run([*command, str(path)], check=False).returncode
            if code:
                raise MoeMlxError(f"{command[0]} ended with {code}: the message is as it was")
            return path.read_text(encoding="utf-8").rstrip("\n")
        except OSError as error:
            raise MoeMlxError(
                f"{command[0]} cannot be started ({error.strerror}): name another editor in $EDITOR"
            ) from error
        except UnicodeDecodeError:
            raise MoeMlxError(f"{command[0]} left no text in UTF-8: the message is as it was") from None
