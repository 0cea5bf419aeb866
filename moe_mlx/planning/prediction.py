"""How long a decode step takes, from sizes and rates: weights through memory, misses from disk, layers' own cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from moe_mlx.errors import UsageError
from moe_mlx.planning.chips import Chip
from moe_mlx.planning.crossings import PUBLISHED_SECONDS
from moe_mlx.planning.shape import ModelShape
from moe_mlx.system.calibration import Calibration

#: Share of its published bandwidth at which a GPU goes through weights at decode. Assumed.
GPU_EFFICIENCY = 0.65
#: Share of the SSD's rate that reads of a few megabytes reach when a handful of them are in flight. Assumed.
SSD_EFFICIENCY = 0.85
#: What a layer whose experts are capped adds to a step on a GPU, in seconds. Read-back: rivals went from 94.5 to 47.1
#: and from 122.5 to 60.6 tok/s with 40 and 30 layers at half their experts, reads included, so at most 0.27 ms a
#: layer. In the graph: a way to the CPU and back, which is what the share of slots reckons with too.
LAYER_SECONDS = {"readback": 0.25e-3, "native": PUBLISHED_SECONDS}

#: Miss rates under LRU and exact routing by share of resident experts: between what others publish for trained models
#: (50%: 28-40%; 25%: 34%), rounded to the worse side. `--miss-rate` and `--measured` replace them.
_LRU_MISSES = ((0.0, 1.0), (0.125, 0.62), (0.25, 0.45), (0.5, 0.30), (0.75, 0.13), (1.0, 0.0))
#: Cache-Prior at its default lambda leaves this much of the misses (others: 35 to 16, 28 to 7, 33.7 to 20.4%).
_CACHE_PRIOR_LEAVES = 0.55


@dataclass(frozen=True, slots=True)
class Rates:
    """A machine for predictions.

    Attributes:
        name: Chip, or "this machine".
        weights: Bytes a second at which decode goes through resident weights.
        reads: Bytes a second at which misses are read.
        layer_seconds: Added by each capped layer.
        assumed: What of it nobody measured here.
    """

    name: str
    weights: float
    reads: float
    layer_seconds: float
    assumed: str

    @classmethod
    def of_chip(cls, chip: Chip, decode: str) -> Rates:
        """Rates of a named chip, from published figures and assumed efficiencies."""
        return cls(
            chip.name,
            chip.memory_rate * GPU_EFFICIENCY,
            chip.ssd_rate * SSD_EFFICIENCY,
            LAYER_SECONDS[decode],
            f"published memory bandwidth x {GPU_EFFICIENCY}, approximate SSD rate x {SSD_EFFICIENCY}, "
            f"{LAYER_SECONDS[decode] * 1e3:g} ms a capped layer ({decode}): a guess, not a measurement",
        )

    @classmethod
    def of_calibration(cls, found: Calibration, *, cold: bool = True) -> Rates:
        """Rates of this machine as measured.

        Raises:
            UsageError: a rate is missing from the calibration.
        """
        reads = found.cold_rate if cold else found.warm_rate
        if found.weight_rate is None or reads is None:
            lacking = "bench --model MODEL --calibrate" if found.weight_rate is None else "bench io MODEL --calibrate"
            raise UsageError(f"the calibration is not complete: run `moe-mlx {lacking}`")
        layer = found.layer_seconds or 0.0
        return cls("this machine", found.weight_rate, reads, layer, f"measured {found.date}")


@dataclass(frozen=True, slots=True)
class StepTime:
    """Where the time of one decode step goes, in seconds; the terms do not overlap."""

    weights: float
    reads: float
    layers: float

    @property
    def tps(self) -> float:
        """Steps a second."""
        return 1.0 / (self.weights + self.reads + self.layers)

    @property
    def bottleneck(self) -> str:
        """The largest term, in words."""
        terms = {"memory bandwidth": self.weights, "disk reads": self.reads, "layer overhead": self.layers}
        return max(terms, key=terms.__getitem__)


def step_time(shape: ModelShape, rates: Rates, miss_rate: float, *, capped: bool = True) -> StepTime:
    """Predicts a decode step at a miss rate."""
    missed = miss_rate * sum(layer.top_k * layer.read_nbytes for layer in shape.layers)
    layers = len(shape.layers) * rates.layer_seconds if capped else 0.0
    return StepTime(shape.active_nbytes / rates.weights, missed / rates.reads, layers)


def assumed_miss_rate(resident: float, *, lossy: bool, known: Sequence[tuple[float, float]] = ()) -> float:
    """Returns the miss rate at a share of resident experts, by straight lines between known points.

    Args:
        resident: Share of experts that have a slot.
        lossy: Whether cache-prior routes at its default strength.
        known: (share, miss rate) points that were measured, for this routing; they replace the assumed ones.
    """
    points = sorted({1.0: 0.0, 0.0: 1.0, **dict(known)}.items()) if known else list(_LRU_MISSES)
    factor = _CACHE_PRIOR_LEAVES if lossy and not known else 1.0
    for (left, high), (right, low) in pairwise(points):
        if left <= resident <= right:
            return factor * (high + (low - high) * (resident - left) / (right - left))
    return 0.0


@dataclass(frozen=True, slots=True)
class Predictor:
    """Predicts this machine's speed at measured misses, for the bench to grade."""

    shape: ModelShape
    calibration: Calibration

    def decode_tps(self, misses_per_step: float, cold: bool) -> float | None:
        """Returns tokens a second, or None where the calibration lacks a rate."""
        try:
            rates = Rates.of_calibration(self.calibration, cold=cold)
        except UsageError:
            return None
        return step_time(self.shape, rates, misses_per_step / self.shape.choices, capped=misses_per_step > 0).tps
