"""What a conversion did, for people and for `--json`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Summary:
    """What a conversion did; sizes in bytes, time in seconds.

    Attributes:
        method: `bytes` (ranges were copied) or `arrays` (experts were stacked through mlx-lm).
        files_resumed: Files that an earlier, interrupted run had finished and that were verified again.
        compared: Whether every byte written was compared with the source afterwards.
        left_out: Tensors that mlx-lm drops while it loads, which the store does without.
        left_out_bytes: Bytes of those.
        peak_memory_bytes: Largest resident memory of the process.
        peak_array_bytes: Largest memory of MLX arrays; 0 where bytes were copied.
    """

    source: str
    revision: str | None
    destination: str
    method: str
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

    def as_json(self) -> dict[str, Any]:
        """Returns the summary as one JSON object."""
        return asdict(self)
