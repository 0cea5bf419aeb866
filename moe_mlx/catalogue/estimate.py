"""What of a model fits on this machine and how fast it should be: the plan's own figures for the cap `auto` chooses."""

from __future__ import annotations

from dataclasses import dataclass

from moe_mlx.errors import UsageError
from moe_mlx.planning.chips import CHIPS, Chip
from moe_mlx.planning.forecast import plan_caps
from moe_mlx.planning.kv_cache import KV_TOKENS, kv_bytes, kv_element_bytes
from moe_mlx.planning.prediction import Rates
from moe_mlx.planning.shape import ModelShape
from moe_mlx.system.calibration import read_calibration
from moe_mlx.system.machine import chip_name

#: Stands in for a machine that is neither calibrated nor a Mac of the table.
DEFAULT_CHIP = "m4"
#: Bytes of weights a token below which a step is not what memory takes, and the plan's prediction says nothing.
_LEAST_ACTIVE = 50_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """What `plan` says of one model.

    Attributes:
        fits: Whether its smallest cache does.
        share: Of its experts that memory holds.
        total: Bytes that running it takes.
        tps: Tokens a second, predicted; None where it does not fit, or is too small for a prediction.
        why_not: Why it does not fit.
    """

    fits: bool
    share: float
    total: int
    tps: float | None
    why_not: str = ""

    @property
    def words(self) -> str:
        """What fits, in two words."""
        if not self.fits:
            return "too large"
        return "all of it" if self.share == 1 else f"{self.share:.0%}"


def estimate(shape: ModelShape, available: int, rates: Rates, *, lossy: bool = True) -> Estimate:
    """Plans one model at the cap that the loader would choose.

    Args:
        shape: The model.
        available: Bytes that MLX may use.
        rates: The machine.
        lossy: Whether cache-prior routes, as it does by default.
    """
    kv_cache = kv_bytes(shape.config, KV_TOKENS, kv_element_bytes(shape.config))
    plan = plan_caps(shape, available, rates, kv_cache=kv_cache, caps=["auto"], lossy=lossy)[0]
    share = sum(plan.slots) / sum(layer.experts for layer in shape.layers)
    tps = plan.step.tps if plan.fits and shape.active_nbytes >= _LEAST_ACTIVE else None
    return Estimate(plan.fits, share, plan.total, tps, plan.why_not)


def chip_here() -> Chip:
    """Returns this Mac's row of the table, or the one that stands in for it."""
    here = chip_name().lower().replace("apple ", "").replace(" ", "-")
    return CHIPS.get(here, CHIPS[DEFAULT_CHIP])


def rates_here(decode: str = "native") -> Rates:
    """Returns what was measured on this machine where that is complete, else the published rates of its chip."""
    found = read_calibration()
    if found is not None:
        try:
            return Rates.of_calibration(found)
        except UsageError:
            pass
    return Rates.of_chip(chip_here(), decode)
