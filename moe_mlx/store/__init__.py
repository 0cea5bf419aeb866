"""The expert store on disk: layout, manifest, reader. Knows no MLX, no runtime and no user interface."""

from moe_mlx.store.checkpoint import CheckpointSource
from moe_mlx.store.source import ExpertSource
from moe_mlx.store.spec import ByteRange, ExpertLayer, TensorSpec
from moe_mlx.store.store import StoreSource, is_store, open_source

__all__ = [
    "ByteRange",
    "CheckpointSource",
    "ExpertLayer",
    "ExpertSource",
    "StoreSource",
    "TensorSpec",
    "is_store",
    "open_source",
]
