"""What a conversion did, for people and for `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_mlx.store.families import library_of
from moe_mlx.store.given import Given
from moe_mlx.store.layout import Manifest


@dataclass(frozen=True, slots=True)
class Summary:
    """What a conversion did; sizes in bytes, time in seconds.

    Attributes:
        built_by: The library that builds the model.
        method: `bytes` (ranges were copied), `arrays` (experts stacked through that library), `upgrade` (of a store) or
            `rounding` (experts were given fewer bits).
        version: Of the store's format.
        nested: Whether the high bits of every code come first.
        row_blocks: Blocks of each expert's output rows.
        files_resumed: Files that an earlier, interrupted run had finished and that were verified again.
        compared: Whether every byte written was compared with the source afterwards.
        left_out: Tensors that it drops while it loads, which the store does without.
        left_out_bytes: Bytes of those.
        given: The bits of each expert, where they were given some.
        peak_memory_bytes: Largest resident memory of the process.
        peak_array_bytes: Largest memory of MLX arrays; 0 where bytes were copied.
    """

    source: str
    revision: str | None
    destination: str
    built_by: str
    method: str
    version: int
    nested: bool
    row_blocks: int
    layers: int
    experts: int
    files: int
    files_resumed: int
    bytes_written: int
    experts_bytes: int
    resident_bytes: int
    left_out: tuple[str, ...]
    left_out_bytes: int
    seconds: float
    seconds_compare: float
    compared: bool
    peak_memory_bytes: int
    peak_array_bytes: int
    given: Given | None = None

    def as_json(self) -> dict[str, Any]:
        """Returns the summary as one JSON object."""
        return asdict(self)


def already(manifest: Manifest, store: Path) -> Summary:
    """Returns what an upgrade did whose store an earlier run had finished."""
    layout = manifest.layers[0].layout
    experts = sum(stored.layer.experts for stored in manifest.layers)
    files = len(manifest.files) + len(manifest.resident) + experts
    return Summary(
        source=manifest.source,
        revision=manifest.revision,
        destination=str(store),
        built_by=library_of({"model_type": manifest.model_type}),
        method="upgrade",
        version=manifest.version,
        nested=layout.nested,
        row_blocks=layout.row_blocks,
        layers=len(manifest.layers),
        experts=experts,
        files=files + 1,
        files_resumed=files,
        bytes_written=0,
        experts_bytes=manifest.experts_nbytes,
        resident_bytes=manifest.resident_nbytes,
        left_out=(),
        left_out_bytes=0,
        seconds=0.0,
        seconds_compare=0.0,
        compared=True,
        peak_memory_bytes=0,
        peak_array_bytes=0,
    )
