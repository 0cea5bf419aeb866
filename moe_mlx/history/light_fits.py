"""Thresholds of light experts that were fitted layer by layer on a text, per model: kept beside its verdicts.

Those that were fitted on a task's text may be kept with that task's profile, in a file beside its history.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from moe_mlx.history.kept_rows import read_rows, write_rows
from moe_mlx.routing.names import LIGHTS
from moe_mlx.system.folders import user_folder

NAME = "light-fits"
_CACHE, _DIGEST = re.compile(r"[0-9]{1,3}%"), re.compile(r"[0-9a-f]{1,64}")


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


def fits_path(identity: str, profile: Path | None = None) -> Path:
    """Returns where those of a model are kept.

    Args:
        identity: The model's.
        profile: The history file of the profile that they belong to; None for the model's own.

    Raises:
        RuntimeError: there is no home folder.
    """
    return user_folder() / NAME / f"{identity}.json" if profile is None else profile.with_suffix(f".{NAME}.json")


def read_fits(identity: str, profile: Path | None = None) -> list[LightFit]:
    """Returns all that are kept; arguments as for `fits_path`."""
    return read_rows(lambda: fits_path(identity, profile), NAME, LightFit)


def sound(fit: LightFit, layers: int) -> bool:
    """Whether a fit can be used in a model of so many MoE layers, and its words are what `fit` writes."""
    shares = len(fit.by_layer) == layers and all(0 <= share <= 1 for share in (*fit.by_layer, fit.beyond))
    words = fit.light in LIGHTS and _CACHE.fullmatch(fit.cache) and _DIGEST.fullmatch(fit.data)
    return shares and bool(words)


def read_fit(
    identity: str, light: str, beyond: float, distance: int, layers: int, profile: Path | None = None
) -> LightFit | None:
    """Returns the fit of a model with so many MoE layers; None where there is none, or only one that cannot be used."""
    for fit in read_fits(identity, profile):
        if sound(fit, layers) and (fit.light, fit.beyond, fit.distance) == (light, beyond, distance):
            return fit
    return None


def keep_fit(identity: str, found: LightFit, profile: Path | None = None) -> None:
    """Adds a fit to those of a model; a later one of the same mode, threshold and distance stands in for the earlier.

    Raises:
        OSError: from the operating system.
        RuntimeError: there is no home folder.
    """
    kept = read_fits(identity, profile)
    alike = (found.light, found.beyond, found.distance)
    others = [fit for fit in kept if (fit.light, fit.beyond, fit.distance) != alike]
    write_rows(fits_path(identity, profile), NAME, [*others, found])
