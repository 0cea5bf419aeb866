"""What a part of the examination is, and what it found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

DONE, FAILED, OVERDUE = "done", "failed", "overdue"


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is examined, by `examine(folder, small)` of a module here, in a process of its own.

    Attributes:
        name: As `--parts` takes it.
        module: The module's name in this room.
        title: As the report heads it.
        limit: Seconds after which it is ended.
    """

    name: str
    module: str
    title: str
    limit: float


#: In this order: `buffers` runs on the store that `decode` makes.
PARTS = (
    Part("machine", "about_machine", "The machine", 60),
    Part("disk", "disk_rates", "Reading from the disk", 90),
    Part("streams", "stream_costs", "Crossings and read-backs", 60),
    Part("native", "native_check", "Decode in the graph", 420),
    Part("equality", "equality", "Against mlx-lm, logit by logit", 120),
    Part("decode", "decode_rates", "Decode speed", 240),
    Part("buffers", "buffer_rates", "MLX_MAX_OPS_PER_BUFFER=8", 120),
    Part("cliff", "memory_cliff", "More memory, slower", 120),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a part.

    Attributes:
        part: Its name.
        state: "done", "failed" or "overdue".
        seconds: It took.
        figures: What it measured; nothing where it did not end well.
        reason: Why it did not.
    """

    part: str
    state: str
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Returns it for `--json`."""
        return asdict(self)
