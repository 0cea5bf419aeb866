"""Runs the parts, one after the other, in a folder that is gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from moe_mlx.errors import UsageError
from moe_mlx.examination.child import run_part
from moe_mlx.examination.part import PARTS, Finding, Part
from moe_mlx.examination.random_model import NEEDED_BYTES
from moe_mlx.system.sizes import show_bytes


def parts_named(names: Sequence[str]) -> list[Part]:
    """Returns the parts of these names, in their order; all of them for none.

    Raises:
        UsageError: there is no such part.
    """
    known = {part.name: part for part in PARTS}
    for name in names:
        if name not in known:
            raise UsageError(f"--parts: {name!r} is none of {', '.join(known)}")
    return [part for part in PARTS if not names or part.name in names]


def examine(
    parts: Sequence[Part], *, small: bool, progress: Callable[[str], None], parent: Path | None = None
) -> list[Finding]:
    """Examines this machine.

    Args:
        parts: What of it.
        small: Sizes that only show that the parts run.
        progress: Gets what is under way.
        parent: Where the generated model is written; the system's folder for temporary files by default.

    Raises:
        UsageError: no room for the generated model there.
    """
    findings: list[Finding] = []
    try:
        place = tempfile.TemporaryDirectory(prefix="moe-mlx-doctor-", dir=parent)
    except OSError as error:
        raise UsageError(f"--folder {parent}: {error.strerror}") from None
    with place as name:
        folder = Path(name)
        free = shutil.disk_usage(folder).free
        if not small and free < NEEDED_BYTES:
            raise UsageError(
                f"{show_bytes(free)} are free for temporary files, {show_bytes(NEEDED_BYTES)} are needed: "
                "name another disk with --folder"
            )
        for number, part in enumerate(parts, start=1):
            progress(f"[{number}/{len(parts)}] {part.title} (at most {part.limit:g} s)")
            findings.append(run_part(part, folder, small=small))
    return findings
