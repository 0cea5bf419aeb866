"""MLX's own limits, which are a process's: of its buffer cache, and on Metal of what it may wire.

Every loaded model holds them. The latest load's are in force; when a model closes, those of the latest that is left,
and when none is left, what was in force before the first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import mlx.core as mx

from moe_mlx.loading import wiring
from moe_mlx.planning.budget import MemoryPlan

#: A model that is collected as garbage gives its limits back, wherever this thread is.
_lock = threading.RLock()
_held: list[HeldLimits] = []
_restore: list[Callable[[], object]] = []


class HeldLimits:
    """One model's hold on MLX's limits, from loading on until `give_back`.

    Args:
        plan: The model's memory plan.
        wired: As `wiring.check_wired` takes it.
    """

    def __init__(self, plan: MemoryPlan, wired: str) -> None:
        self._cache, self._wired = plan.mlx_cache, wiring.wired_bytes(plan.total, wired, mx.get_active_memory())
        with _lock:
            first = not _held
            _held.append(self)
            cache_before, wired_before = self._set()
            if not first:
                return
            _restore.append(lambda: mx.set_cache_limit(cache_before))
            if wired_before is not None:
                _restore.append(lambda: mx.set_wired_limit(wired_before))

    def _set(self) -> tuple[int, int | None]:
        """Puts these limits in force and returns those before, of which the second is None where there is no Metal."""
        cache_before = mx.set_cache_limit(self._cache)
        if self._wired is None:
            return cache_before, None
        mx.synchronize()  # while nothing is queued
        wiring.keep_mlx_lm_off()
        return cache_before, mx.set_wired_limit(self._wired)

    def give_back(self) -> None:
        """Lets go of the limits; with nothing queued. Again, it does nothing."""
        with _lock:
            if self not in _held:
                return
            latest = _held[-1] is self
            _held.remove(self)
            if _held and latest:
                _held[-1]._set()
            elif not _held:
                while _restore:
                    _restore.pop()()
                wiring.let_mlx_lm_set_it()
