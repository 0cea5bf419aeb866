"""A hub repository's headers: its config, and each shard's first bytes by HTTP range. Weights are never fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moe_mlx.errors import StoreCorruptError, StoreMissingError
from moe_mlx.planning.shape import ModelShape, checkpoint_shape
from moe_mlx.store import manifest
from moe_mlx.store.header import Entry
from moe_mlx.store.json_files import read_json
from moe_mlx.store.locate import Located

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def hub_shape(repo: str, revision: str | None = None, api: HfApi | None = None) -> ModelShape:
    """Reads a repository's config and headers.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit.
        api: The hub; huggingface.co (or $HF_ENDPOINT) by default.

    Raises:
        StoreMissingError: no such repository, no network, no safetensors in it.
        StoreCorruptError: headers that contradict themselves.
        UnsupportedModelError: no mixture of experts that is known.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        NotASafetensorsRepoError,
        SafetensorsParsingError,
    )

    hub = api or HfApi()
    stored_there = _is_store(hub, repo, revision)
    try:
        config = read_json(Path(hub.hf_hub_download(repo, "config.json", revision=revision)))
        if stored_there:
            path = Path(hub.hf_hub_download(repo, manifest.NAME, revision=revision))
            stored = manifest.parse(path.read_bytes(), path)
            layers = tuple(found.layer for found in stored.layers)
            return ModelShape(repo, "store on the hub", config, layers, stored.resident_nbytes, 0)
        metadata = hub.get_safetensors_metadata(repo, revision=revision)
    except LocalEntryNotFoundError as error:
        raise StoreMissingError(f"{repo}: no folder here, and the hub cannot be reached: check the network") from error
    except NotASafetensorsRepoError as error:
        raise StoreMissingError(f"{repo}: no safetensors weights there: name an MLX checkpoint") from error
    except SafetensorsParsingError as error:
        raise StoreCorruptError(f"{repo}: a header there cannot be read: {error}") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreMissingError(f"{repo} is no folder here, and not to be had from the hub: {reason}") from error
    tensors = {
        name: Located(Entry(name, info.dtype, tuple(info.shape), *info.data_offsets), Path(file), info.data_offsets[0])
        for file, described in metadata.files_metadata.items()
        for name, info in described.tensors.items()
    }
    return checkpoint_shape(repo, "checkpoint on the hub", config, tensors, Path(repo))


def _is_store(hub: HfApi, repo: str, revision: str | None) -> bool:
    """Whether there is a manifest. Asked first: it is asked once, a download five times over half a minute."""
    try:
        return hub.file_exists(repo, manifest.NAME, revision=revision)
    except Exception as error:  # the hub client raises a dozen kinds, some of them its HTTP library's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StoreMissingError(
            f"{repo} is no folder here, and the hub cannot be reached ({reason}): check the name and the network"
        ) from error
