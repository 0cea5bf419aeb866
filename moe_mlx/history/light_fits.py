"""Thresholds of light experts that were fitted layer by layer on a text, per model: kept beside its verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_mlx.history.kept_rows import read_rows, write_rows
from moe_mlx.system.folders import user_folder

NAME = "light-fits"


@dataclass(frozen=True, slots=True)
class LightFit:
    """One fit.

    Attributes:
        light: What absent light experts did.
        beyond: The threshold, the same in all layers, that lets as many misses not wait.
        distance: Layers later that late outputs were added.
        cache: The cap.
        data: Digest of the tokens it was fitted on.
        tokens: How many.
        by_layer: The threshold of each MoE layer; 1: it waits for all of its experts.
    """

    light: str
    beyond: float
    distance: int
    cache: str
    data: str
    tokens: int
    by_layer: tuple[float, ...]


def fits_path(identity: str) -> Path:
    """Returns where those of a model are kept.

    Raises:
        RuntimeError: there is no home folder.
    """
    return user_folder() / NAME / f"{identity}.json"


def read_fit(identity: str, light: str, beyond: float, distance: int, layers: int) -> LightFit | None:
    """Returns the fit of a model with so many MoE layers; None where there is none, or only one that cannot be used."""
    for fit in read_rows(lambda: fits_path(identity), NAME, LightFit):
        sound = len(fit.by_layer) == layers and all(0 <= share <= 1 for share in fit.by_layer)
        if sound and (fit.light, fit.beyond, fit.distance) == (light, beyond, distance):
            return fit
    return None


def keep_fit(identity: str, found: LightFit) -> None:
    """Adds a fit to those of a model; a later one of the same mode, threshold and distance stands in for the earlier.

    Raises:
        OSError: from the operating system.
        RuntimeError: there is no home folder.
    """
    kept = read_rows(lambda: fits_path(identity), NAME, LightFit)
    alike = (found.light, found.beyond, found.distance)
    others = [fit for fit in kept if (fit.light, fit.beyond, fit.distance) != alike]
    write_rows(fits_path(identity), NAME, [*others, found])
