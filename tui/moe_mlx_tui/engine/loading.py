"""How far loading is: the process's growth against what the model will hold. A figure for a bar, not for a report."""

from __future__ import annotations

import argparse
from typing import Any

from moe_mlx.errors import MoeMlxError
from moe_mlx.planning.budget import parse_cap, slots_for_share
from moe_mlx.system.memory import read_memory


class LoadProgress:
    """Bytes done and in all. `read` may be called from another thread than `measure`."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self._start, self._total = read_memory().footprint, 0
        #: Off while something else than bytes is waited for.
        self.counting = True

    def measure(self) -> None:
        """Finds out what will be loaded; a model that cannot be opened is left to the loader to complain about."""
        from moe_mlx.planning.shape import local_shape
        from moe_mlx.store import open_source
        from moe_mlx.store.demo import DEMO, DEMO_EXPERT_CACHE
        from moe_mlx.store.resolve import resolve

        try:
            source = open_source(resolve(self.args.model, self.args.revision))
            try:
                cap = parse_cap(self.args.expert_cache or (DEMO_EXPERT_CACHE if self.args.model == DEMO else "auto"))
                everything = sum(layer.nbytes for layer in source.layers)
                experts = min(everything, cap.nbytes or read_memory().available)
                if cap.share is not None:
                    slots = slots_for_share(source.layers, cap.share)
                    experts = sum(layer.expert_nbytes * n for layer, n in zip(source.layers, slots, strict=True))
                resident = local_shape(source.root).resident_nbytes
                self._start = read_memory().footprint
                self._total = resident + experts
            finally:
                source.close()
        except (MoeMlxError, OSError):
            return

    def read(self) -> dict[str, Any]:
        """Returns the fields of a snapshot."""
        if not self._total or not self.counting:
            return {}
        done = min(self._total, max(0, read_memory().footprint - self._start))
        return {"done": done, "total": self._total, "unit": "bytes"}
