"""What tells one copy of a model from another by its description alone: no expert is read."""

from __future__ import annotations

from moe_mlx.store import digest, manifest
from moe_mlx.store.identity import identity_of
from moe_mlx.store.source import ExpertSource


def description_digest(source: ExpertSource) -> str:
    """Returns a digest (32 hexadecimal digits) of a store's manifest, which holds one of every file in it.

    A checkpoint in place has no digests: its identity stands in, for which two experts are read.

    Raises:
        ExpertReadError: a checkpoint's first or last expert could not be read.
        OSError: the manifest cannot be read.
    """
    if source.in_place:
        return identity_of(source)
    return digest.of([(source.root / manifest.NAME).read_bytes()])
