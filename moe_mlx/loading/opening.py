"""Opens what a name stands for: its folder, its experts, and the way they are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.loading.options import Options
from moe_mlx.store import ExpertSource, open_source
from moe_mlx.store.access import DIRECT, DROPPED
from moe_mlx.store.families import family_of
from moe_mlx.store.family import top_k
from moe_mlx.store.probe import use_io
from moe_mlx.store.resolve import resolve


@dataclass(frozen=True, slots=True)
class Opened:
    """A model on disk.

    Attributes:
        folder: A store, or a checkpoint that runs in place.
        source: Its experts, read as its `access` says.
        io_remark: Why they are not read as asked; "" where they are.
    """

    folder: Path
    source: ExpertSource
    io_remark: str


def open_model(options: Options) -> Opened:
    """Finds and opens the model.

    Raises:
        UsageError: there is no such `io`, or `model_config` chooses more experts than there are.
        StoreError: the model is missing, incomplete or corrupt.
    """
    folder = resolve(options.path_or_repo, options.revision)
    source = open_source(folder, verify=options.verify_reads)
    try:
        if options.model_config:
            _override(source, options.model_config)
        access = use_io(source, options.io)
    except BaseException:
        source.close()
        raise
    remark = ""
    if options.io == DIRECT and access.way != DIRECT:
        after = " and dropped from it after each read" if access.way == DROPPED else ""
        remark = f"{folder.name}: experts are read through the page cache{after}: {access.reason}"
    return Opened(folder, source, remark)


def _override(source: ExpertSource, model_config: dict[str, Any]) -> None:
    """Lets the source say what the model will be built from: whatever is planned asks it for config and top_k."""
    config = {**source.config, **model_config}
    family = family_of(config, source.root)
    layers = []
    for layer in source.layers:
        chosen = top_k(config, family, layer.layer, source.root)
        if not 1 <= chosen <= layer.experts:
            raise UsageError(
                f"model_config: {family.top_k} = {chosen}, and {layer.path} has {layer.experts} experts: choose from "
                f"1 to {layer.experts}."
            )
        layers.append(replace(layer, top_k=chosen))
    source.config, source.layers = config, tuple(layers)
