"""What can be run or fetched, one line each with its estimate: what `list` prints and the app's first screen shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.catalogue.estimate import Estimate, estimate
from moe_mlx.catalogue.found import DEFAULT_FOLDERS, find_models
from moe_mlx.catalogue.known import known_models
from moe_mlx.planning.prediction import Rates
from moe_mlx.planning.shape import ModelShape

KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Offer:
    """One model.

    Attributes:
        name: As shown.
        model: What `--model` takes; a repository for one that is only known.
        place: "embedded", "folder", "hub cache", or `KNOWN`: not on this machine.
        form: What it is on disk: "store", "checkpoint", "to convert", "unreadable"; "hub" where it is only known.
        nbytes: Of its weights; 0 where unknown.
        family: Its model type.
        layers: MoE layers.
        experts: Routed experts of each.
        top_k: Experts a token takes.
        guess: What fits; None where its headers cannot be read.
        problem: Why it cannot be run as it is.
        path: Its folder; "" for one that is only known.
    """

    name: str
    model: str
    place: str
    form: str
    nbytes: int = 0
    family: str = ""
    layers: int = 0
    experts: int = 0
    top_k: int = 0
    guess: Estimate | None = None
    problem: str = ""
    path: str = ""

    @property
    def here(self) -> bool:
        """Whether it is on this machine."""
        return self.place != KNOWN

    def as_json(self) -> dict[str, Any]:
        """Returns it for scripts, sizes in bytes."""
        row: dict[str, Any] = {
            "name": self.name,
            "model": self.model,
            "place": self.place,
            "path": self.path,
            "form": self.form,
            "problem": self.problem,
        }
        if (guess := self.guess) is not None:
            row |= {
                "family": self.family,
                "bytes": self.nbytes,
                "layers": self.layers,
                "experts": self.experts,
                "top_k": self.top_k,
                "fits": guess.fits,
                "share": guess.share if guess.fits else None,
                "total_bytes": guess.total,
                "tokens_per_second": guess.tps,
                "why_not": guess.why_not,
            }
        return row


def offers(available: int, rates: Rates, folders: Sequence[str | Path] | None = None) -> list[Offer]:
    """Returns what is on this machine, then the known models that are not.

    Args:
        available: Bytes that MLX may use.
        rates: The machine, for estimates.
        folders: Where to look; the usual folders by default.
    """
    here = find_models(folders or DEFAULT_FOLDERS)
    rows = [
        Offer(
            entry.name,
            entry.model,
            entry.place,
            entry.form,
            problem=entry.problem,
            path=str(entry.path),
            **_figures(entry.shape, available, rates),
        )
        for entry in here
    ]
    names = {entry.name.lower() for entry in here}
    rows += [
        Offer(model.name, model.repo, KNOWN, "hub", **_figures(model.shape, available, rates))
        for model in known_models()
        if model.repo.lower() not in names
    ]
    return rows


def _figures(shape: ModelShape | None, available: int, rates: Rates) -> dict[str, Any]:
    if shape is None:
        return {}
    return {
        "nbytes": shape.nbytes,
        "family": str(shape.config.get("model_type", "")),
        "layers": len(shape.layers),
        "experts": shape.layers[0].experts,
        "top_k": shape.layers[0].top_k,
        "guess": estimate(shape, available, rates),
    }
