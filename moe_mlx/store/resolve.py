"""From what a user names (a folder, a hub repository, "demo") to a folder on this machine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from moe_mlx.errors import StoreMissingError
from moe_mlx.store.demo import DEMO, demo_path
from moe_mlx.store.files import expanded, openable
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
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_CACHED = re.compile(r"models--(.+)")


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model's folder, and what it is called.

    Attributes:
        folder: On this machine.
        name: The repository's id where it is a hub snapshot, else the folder's own name.
        revision: The commit of a hub snapshot; None elsewhere.
    """

    folder: Path
    name: str
    revision: str | None


def resolve(path_or_repo: str | Path, revision: str | None = None, *, cached: bool = False) -> Path:
    """Returns the local folder of a model, downloading a hub repository where there is none.

    Args:
        path_or_repo: A folder, `owner/name` on the hub, or "demo".
        revision: Branch, tag or commit of a hub repository.
        cached: Look for a repository in the hub's local cache only.

    Raises:
        StoreMissingError: neither a folder nor a repository that could be fetched.
        UsageError: a path that is no UTF-8.
    """
    return find_model(path_or_repo, revision, cached=cached).folder


def find_model(path_or_repo: str | Path, revision: str | None = None, *, cached: bool = False) -> NamedModel:
    """Returns the same with the model's name and revision; arguments and errors as for `resolve`."""
    text = str(path_or_repo)
    path = openable(expanded(text))
    if path.is_dir():
        return _named(path)
    if text == DEMO:
        return _named(demo_path())
    if path.exists():
        raise StoreMissingError(f"{path} is a file: name the model's folder")
    if _REPOSITORY.fullmatch(text) is None or text.startswith("."):
        raise StoreMissingError(
            f"no model at {path}: no such folder, and no hub repository id (owner/name). Name one of them, or 'demo'."
        )
    folder = _snapshot(text, revision, cached)
    return NamedModel(real_store(folder), text, folder.name)


def is_repository(name: str) -> bool:
    """Whether a name can only be a hub repository's: no folder, no file, and not the demo."""
    path = openable(expanded(name))
    return not path.exists() and name != DEMO and _REPOSITORY.fullmatch(name) is not None and not name.startswith(".")


def whole_in_cache(repo: str, revision: str | None = None) -> bool:
    """Whether every shard of a repository that its index names is in the hub's cache; the hub is not asked."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS, local_files_only=True))
        index = folder / "model.safetensors.index.json"
        named = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    except Exception:  # nothing there, or nothing that can be read: it is fetched
        return False
    return bool(named) and all((folder / str(name)).is_file() for name in named)


def _named(folder: Path) -> NamedModel:
    whole = folder.resolve()
    repository = _CACHED.fullmatch(whole.parent.parent.name) if whole.parent.name == "snapshots" else None
    if repository is None:
        return NamedModel(real_store(folder), whole.name, None)
    return NamedModel(real_store(folder), repository[1].replace("--", "/"), whole.name)


def _snapshot(repo: str, revision: str | None, cached: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=PATTERNS, local_files_only=cached))
    except Exception as error:  # the hub client raises a dozen kinds, none of them ours
        if cached:
            raise StoreMissingError(
                f"{repo}: no such folder here, and not in the hub's local cache: `moe-mlx fetch {repo}` gets it."
            ) from error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StoreMissingError(
            f"{repo}: no such folder here, and the hub gave no snapshot ({reason}). "
            "Check the name, the network and `hf auth login`."
        ) from error
