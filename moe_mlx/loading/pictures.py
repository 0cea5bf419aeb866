"""Whether pictures can be shown to a model, and what reads them for it."""

from __future__ import annotations

from pathlib import Path

from mlx import nn
from mlx.utils import tree_flatten

from moe_mlx.errors import UsageError
from moe_mlx.loading.options import Options
from moe_mlx.loading.skeleton import Skeleton
from moe_mlx.store import ExpertSource
from moe_mlx.store.families import takes_pictures
from moe_mlx.vlm.calling import built_by_mlx_vlm
from moe_mlx.vlm.installed import require
from moe_mlx.vlm.processing import PictureReader

#: How mlx-vlm's families call their vision towers.
_TOWERS = ("vision", "visual", "vit", "sam_model")


def check_pictures(options: Options, source: ExpertSource) -> None:
    """Refuses pictures before anything is loaded for them.

    Raises:
        UsageError: the model's family takes none, or none that is built here.
        UnsupportedModelError: mlx-vlm is not installed.
    """
    if not options.pictures:
        return
    kind = str(source.config.get("model_type"))[:80]
    if not takes_pictures(source.config):
        raise UsageError(f"{source.root.name}: pictures cannot be shown to a {kind} here (moe-mlx families)")
    require(f"{source.root.name}: pictures for a {kind}")


def picture_reader(skeleton: Skeleton, folder: Path, options: Options) -> PictureReader | None:
    """Returns what reads pictures for a model; None where it has nothing that sees them.

    Raises:
        UsageError: pictures are asked for, and its vision tower is not in the folder.
    """
    model = skeleton.model
    if not built_by_mlx_vlm(model):
        return None
    if not sees(model):
        if options.pictures:
            raise UsageError(
                f"{folder.name}: its vision tower is not there. A store keeps it where the checkpoint has it and "
                "mlx-vlm is installed when it is made: convert the checkpoint again."
            )
        return None
    return PictureReader(model, folder, skeleton.config, trust_remote_code=options.trust_remote_code)


def sees(model: nn.Module) -> bool:
    """Whether a model has a vision tower with weights."""
    return any(word in path for path, _ in tree_flatten(model.parameters()) for word in _TOWERS)
