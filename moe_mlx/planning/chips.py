"""Memory and SSD bandwidth of named machines, for predictions. Nothing here was measured by this project.

Memory bandwidth is what Apple publishes for each chip (its newsroom announcements and technical specifications). SSD
read rates are approximate: Apple's "up to" figures where it gives any (MacBook Pro 2021: 7.4 GB/s; M5: twice M4),
else what reviewers measured with Blackmagic Disk Speed Test; the smallest capacities read at about half of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.errors import UsageError


@dataclass(frozen=True, slots=True)
class Chip:
    """A machine by its published rates, in bytes a second."""

    name: str
    memory_rate: float
    ssd_rate: float

    @property
    def ratio(self) -> float:
        """How many times faster memory is than the SSD."""
        return self.memory_rate / self.ssd_rate


def _chip(name: str, memory: float, ssd: float) -> Chip:
    return Chip(name, memory * 1e9, ssd * 1e9)


#: (memory GB/s published by Apple, SSD GB/s approximate)
_TABLE = (
    _chip("m1", 68.25, 2.9),  # Apple, MacBook Air and Pro (2020)
    _chip("m1-pro", 200, 6.0),  # Apple, MacBook Pro (2021), SSD "up to 7.4"
    _chip("m1-max", 400, 6.0),
    _chip("m1-ultra", 800, 6.0),  # Apple, Mac Studio (2022)
    _chip("m2", 100, 2.9),  # Apple, MacBook Air (2022); 256 GB models about 1.5
    _chip("m2-pro", 200, 5.0),  # Apple, MacBook Pro (2023)
    _chip("m2-max", 400, 6.0),
    _chip("m2-ultra", 800, 6.0),  # Apple, Mac Studio (2023)
    _chip("m3", 100, 3.0),  # Apple, MacBook Air (2024)
    _chip("m3-pro", 150, 5.0),  # Apple, MacBook Pro (late 2023)
    _chip("m3-max", 400, 6.0),  # 300 with the 14-core CPU
    _chip("m3-ultra", 819, 6.5),  # Apple, Mac Studio (2025)
    _chip("m4", 120, 3.0),  # Apple, Mac mini and MacBook Pro (2024)
    _chip("m4-pro", 273, 6.0),
    _chip("m4-max", 546, 7.0),  # 410 with the 14-core CPU
    _chip("m5", 153, 6.0),  # Apple, MacBook Pro (2025), SSD "up to 2x"
    _chip("m5-pro", 307, 12.0),  # Apple, MacBook Pro (2026), SSD "up to 2x"
    _chip("m5-max", 614, 13.0),  # 460 with the smaller GPU
)
CHIPS = {chip.name: chip for chip in _TABLE}


def chip_named(name: str) -> Chip:
    """Returns a chip by name: "m4-pro", "M4 Pro", "Apple M4 Pro".

    Raises:
        UsageError: none of the table.
    """
    wanted = name.lower().replace("apple", "").strip().replace(" ", "-").replace("_", "-")
    if wanted not in CHIPS:
        raise UsageError(f"no chip {name!r} in the table: choose one of {', '.join(CHIPS)}")
    return CHIPS[wanted]
