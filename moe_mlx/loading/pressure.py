"""Memory pressure: between tokens the cap shrinks by itself, and grows back when the pressure ends.

Linux tells through the control group's room and its stall figures (PSI, kernel documentation accounting/psi), macOS
through `kern.memorystatus_vm_pressure_level` (1 normal, 2 warning, 4 critical): a warning asks for memory, and only a
critical level that lasts ends an answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from moe_mlx.errors import DoesNotFitError
from moe_mlx.loading.runtime import Runtime
from moe_mlx.system.memory import read_memory, read_sysctl
from moe_mlx.system.sizes import show_bytes

#: Seconds between looks; a look costs some file reads.
LOOK_SECONDS = 1.0
#: Seconds without pressure before a step back up, so that the cap does not swing.
CALM_SECONDS = 20.0
#: macOS's level 2 is a warning, which lasts minutes on a Mac in use: a step in so many seconds, and no answer ends.
WARNING_SECONDS = 30.0
#: Seconds that macOS's level 4 has to last at the floor before an answer ends.
LASTING_SECONDS = 10.0
_CRITICAL = 4
#: What a look may wish for.
SHRINK, GROW = "shrink", "grow"
#: A step shrinks the cap to this share of itself.
STEP = 0.75
#: Less room than this share of the total is pressure; twice as much is calm.
LOW_ROOM = 0.05
#: Share of the last ten seconds in which some task stood still for memory (PSI "some avg10", percent).
STALLED_PERCENT = 10.0


def psi_some(path: Path = Path("/proc/pressure/memory")) -> float:
    """Returns the share of the last ten seconds that some task waited for memory, in percent; 0 where unknown."""
    try:
        fields = path.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return 0.0
    return next((float(part.partition("=")[2]) for part in fields if part.startswith("avg10=")), 0.0)


def _level() -> int:
    return int.from_bytes(read_sysctl("kern.memorystatus_vm_pressure_level")[:4], "little")


def only_a_warning() -> bool:
    """Returns whether the pressure is macOS's warning, which asks for memory and threatens nothing yet."""
    return sys.platform == "darwin" and 1 < _level() < _CRITICAL


def patience() -> float:
    """Returns the seconds that pressure has to last at the floor before an answer ends."""
    return LASTING_SECONDS if sys.platform == "darwin" else 0.0


def under_pressure() -> bool | None:
    """Returns True under memory pressure, False when calm, None in between."""
    if sys.platform == "darwin":
        level = _level()
        return None if level == 0 else level > 1
    memory = read_memory()
    share = memory.available / memory.total if memory.total else 1.0
    stalled = psi_some()
    if share < LOW_ROOM or stalled > STALLED_PERCENT:
        return True
    return False if share > 2 * LOW_ROOM and stalled < STALLED_PERCENT / 2 else None


@dataclass
class PressureWatch:
    """Shrinks and regrows one model's expert cache.

    Attributes:
        runtime: The model's cache.
        say: Gets one line at each change.
        sense: What tells pressure; `under_pressure` but in tests.
        clock: Seconds; monotonic.
        warning: What tells pressure that only asks.
        patience: What tells how many seconds pressure lasts at the floor before an answer ends.
    """

    runtime: Runtime
    say: Callable[[str], None]
    sense: Callable[[], bool | None] = under_pressure
    clock: Callable[[], float] = time.monotonic
    warning: Callable[[], bool] = only_a_warning
    patience: Callable[[], float] = patience
    _looked: float = field(default=-1e9)
    _pressed: float = field(default=-1e9)
    _shrunk: float = field(default=-1e9)
    _at_floor: float | None = None
    _asked: int | None = None

    def between_tokens(self) -> None:
        """Looks, at most once in `LOOK_SECONDS`, and resizes. To be called where no step is being built.

        Raises:
            DoesNotFitError: pressure goes on although every layer is down to its top_k slots.
        """
        if wish := self.look():
            have = self.runtime.expert_cache_bytes
            cap = self.begin(wish)
            with suppress(DoesNotFitError) if wish == GROW else nullcontext():
                self.runtime.resize(cap)
                self.end(wish, have)

    def look(self) -> str | None:
        """Returns what would suit this machine now: SHRINK, GROW or nothing, ""; None where it is too soon to look.

        Raises:
            DoesNotFitError: pressure goes on although every layer is down to its top_k slots.
        """
        now = self.clock()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        pressure = self.sense()
        if not pressure:
            self._at_floor = None
            calm = pressure is False and now - self._pressed >= CALM_SECONDS
            return GROW if calm and self._asked is not None else ""
        self._pressed = now
        warned = self.warning()
        if (warned and now - self._shrunk < WARNING_SECONDS) or self._holds(now, warned):
            return ""
        return SHRINK

    def _holds(self, now: float, warned: bool) -> bool:
        floor = self.runtime.sizing.floor
        if self.runtime.expert_cache_bytes > floor:
            return False
        self._at_floor = now if warned or self._at_floor is None else self._at_floor
        if warned or now - self._at_floor < self.patience():
            return True
        raise DoesNotFitError(
            f"memory pressure goes on with the expert cache at its floor of {show_bytes(floor)} (top_k experts a "
            "layer): close other programs, or choose a smaller model"
        )

    def begin(self, wish: str) -> int:
        """Begins a step down or up; returns its cap in bytes, one that does not fit where no step up does."""
        runtime = self.runtime
        have = wanted = runtime.expert_cache_bytes
        if wish == SHRINK:
            self._shrunk = self._looked
            self._asked = self._asked or runtime.sizing.budget
            return max(runtime.sizing.floor, int(have * STEP))
        self._pressed = self._looked
        asked = self._asked or runtime.sizing.budget
        with suppress(DoesNotFitError):
            # Where a layer has few slots a step may be less than one of them.
            while wanted < asked and runtime.plan_for(wanted).expert_cache <= have:
                wanted = min(asked, int(wanted / STEP) + 1)
        return wanted

    def end(self, wish: str, before: int) -> None:
        """Ends a step that was made, and says so.

        Args:
            wish: Down or up.
            before: Bytes of the expert cache before it.
        """
        if wish == GROW and self._asked is not None and self.runtime.sizing.budget >= self._asked:
            self._asked = None
        words = "memory pressure" if wish == SHRINK else "pressure is over"
        self.say(f"{words}: expert cache {show_bytes(before)} -> {show_bytes(self.runtime.expert_cache_bytes)}")
