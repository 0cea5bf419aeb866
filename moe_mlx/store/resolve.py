"""From what a user names (a folder, a hub repository, "demo") to a folder on this machine."""

from __future__ import annotations

from pathlib import Path

from moe_mlx.errors import StoreMissingError
from moe_mlx.store.demo import DEMO, demo_path
from moe_mlx.store.files import expanded
from moe_mlx.store.hub_snapshot import real_store

#: What mlx-lm downloads of a repository, and all that a store of ours may list.
PATTERNS = [
    "*.json",
    "model*.safetensors",
    "experts/**",
    "*.py",
    "*.model",
    "*.tiktoken",
    "*.txt",
    "*.jsonl",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
    "README.md",
]


def resolve(path_or_repo: str | Path, revision: str | None = None) -> Path:
    """Returns the local folder of a model, downloading a hub repository where there is none.

    Args:
        path_or_repo: A folder, `owner/name` on the hub, or "demo".
        revision: Branch, tag or commit of a hub repository.

    Raises:
        StoreMissingError: neither a folder nor a repository that could be fetched.
    """
    name = str(path_or_repo)
    path = expanded(name)
    if path.is_dir():
        return real_store(path)
    if name == DEMO:
        return demo_path()
    if path.exists():
        raise StoreMissingError(f"{path} is a file: name the model's folder")
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local:
        raise StoreMissingError(f"no model at {path}: name a folder, a hub repository (owner/name), or 'demo'")
    return real_store(_download(name, revision))


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS))
    except LocalEntryNotFoundError as error:
        raise StoreMissingError(
            f"{repo} is no folder here, is not in the hub's local cache, and the hub cannot be reached: "
            "check the name and the network"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StoreMissingError(f"{repo} could not be fetched from the hub: {reason}") from error
