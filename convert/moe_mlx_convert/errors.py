"""Failures of a conversion once writing has begun."""

from __future__ import annotations

import errno
from pathlib import Path

from moe_mlx.errors import StoreError


class ConvertError(StoreError):
    """A conversion that could not go on. What was written stays in `DST.partial`; running it again resumes."""


class SourceChangedError(ConvertError):
    """A checkpoint that is not, or no longer, the one whose conversion was begun."""


class DiffersError(ConvertError):
    """A written file that is not its source: `name`, relative to the store, is to be written again."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def failed(action: str, path: Path, error: OSError) -> ConvertError:
    """Returns the error for an operation that the system refused: what, where and what to do next."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConvertError(
            f"{path}: the disk is full while {action}. Free space and run the same command: it resumes."
        )
    reason = error.strerror or str(error)
    return ConvertError(f"{path}: {reason} while {action}. Once that is mended, run the same command: it resumes.")
