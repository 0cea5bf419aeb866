"""LoRA adapters on what is resident. Routed experts come and go as bytes, so an adapter on them is refused by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx import nn

from moe_mlx.errors import StoreCorruptError, StoreMissingError, UsageError
from moe_mlx.store.files import expanded, openable
from moe_mlx.store.header import read
from moe_mlx.store.json_files import read_json

#: Matrices of a higher rank are larger than the weights they adapt; they are made before any file contradicts them.
MOST_RANK = 4096


def apply_adapters(model: nn.Module, adapter_path: str | Path, expert_paths: Sequence[str]) -> None:
    """Applies an mlx-lm adapter to a loaded model, through mlx-lm itself.

    Args:
        model: The model, its switches already replaced.
        adapter_path: Folder with adapter_config.json and adapters.safetensors.
        expert_paths: Module paths of the routed experts.

    Raises:
        StoreMissingError: no adapter there.
        UsageError: the adapter changes routed experts, or its path is no UTF-8.
        StoreCorruptError: mlx-lm cannot apply it.
    """
    from mlx_lm.utils import load_adapters

    folder = openable(expanded(adapter_path))
    weights = folder / "adapters.safetensors"
    if not weights.is_file() or not (folder / "adapter_config.json").is_file():
        raise StoreMissingError(f"{folder} holds no adapter: adapter_config.json and adapters.safetensors are needed")
    with weights.open("rb") as file:
        names = list(read(file.fileno(), weights).entries)
    for name in names:
        owner = next((path for path in expert_paths if name.startswith(f"{path}.")), None)
        if owner is not None:
            raise UsageError(
                f"{weights}: {name} adapts routed experts, which are read from disk as they are. Fuse the adapter "
                "into the checkpoint (mlx_lm.fuse) and convert that, or train it on attention, router or dense weights."
            )
    try:
        _check_rank(read_json(folder / "adapter_config.json"))
        load_adapters(model, str(folder))
    except Exception as error:
        raise StoreCorruptError(f"{folder}: mlx-lm cannot apply this adapter: {error}") from error


def _check_rank(config: Any) -> None:
    settings = config.get("lora_parameters") if isinstance(config, dict) else None
    rank = settings.get("rank", 0) if isinstance(settings, dict) else 0
    if type(rank) is not int or not 0 <= rank <= MOST_RANK:
        raise ValueError(f"its rank is {str(rank)[:80]}, 1 to {MOST_RANK} is sound")
