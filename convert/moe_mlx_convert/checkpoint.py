"""What is to be converted: a folder or hub repository, its fingerprint, and the small files that go along."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moe_mlx.errors import UnsupportedModelError, UsageError
from moe_mlx.store import digest, is_store
from moe_mlx.store.checkpoint import INDEX, Shards, read_shards
from moe_mlx.store.files import expanded, openable
from moe_mlx.store.json_files import read_json
from moe_mlx.store.manifest import NAME as MANIFEST
from moe_mlx.store.manifest import is_plain
from moe_mlx.store.resolve import PATTERNS, find_model
from moe_mlx_convert.errors import SourceChangedError

#: What is copied along; code only where a config names it.
VERBATIM = tuple(p for p in PATTERNS if p not in ("*.py", "model*.safetensors", "experts/**"))
#: Small files only: the largest tokenizer known is 40 MB.
MAX_VERBATIM_NBYTES = 256_000_000
#: Code that is read for what it imports: the largest model file of mlx-lm has 100 kB.
MAX_CODE_NBYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint to convert.

    Attributes:
        name: Repository id, or the folder's name.
        revision: Commit of a hub snapshot.
        shards: Its tensors.
        verbatim: Small files to copy.
        fingerprint: File name -> size, time of change and digest of the header (shards) or of all bytes.
    """

    name: str
    revision: str | None
    shards: Shards
    verbatim: tuple[Path, ...]
    fingerprint: Mapping[str, str]

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.shards.root

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config.json."""
        return self.shards.config

    def again(self) -> Checkpoint:
        """Reads everything anew, to find out whether it changed."""
        return read_checkpoint(str(self.root), trust_remote_code=True)


def read_checkpoint(source: str, revision: str | None = None, *, trust_remote_code: bool = False) -> Checkpoint:
    """Reads everything about a checkpoint that is needed before the first write.

    Raises:
        StoreError: A file missing or damaged.
        UsageError: A store, or a model that wants code of its own to run.
    """
    if revision is not None and expanded(source).exists():
        raise UsageError(f"{source} is a folder: --revision is for hub repositories.")
    named = find_model(source, revision)
    folder = openable(named.folder.resolve())
    if is_store(folder):
        raise UsageError(f"{folder}: already a store (it has a {MANIFEST}); nothing to convert.")
    shards = read_shards(folder)
    verbatim = verbatim_files(shards, trust_remote_code=trust_remote_code)
    return Checkpoint(named.name, named.revision, shards, verbatim, _fingerprint(shards, verbatim))


def verbatim_files(shards: Shards, *, trust_remote_code: bool) -> tuple[Path, ...]:
    """Returns the small files that go along with a checkpoint's tensors.

    Raises:
        UsageError: One of a name or size that no store holds.
        UnsupportedModelError: A model that wants code of its own to run.
    """
    folder = shards.root
    if shards.config.get("model_file") is not None and not trust_remote_code:
        raise UnsupportedModelError(
            f"{folder}: config.json wants the code in {str(shards.config['model_file'])[:80]!r} to run. "
            "If you trust it, pass --trust-remote-code."
        )
    verbatim = tuple(sorted(_verbatim(folder, shards.config)))
    for path in verbatim:
        if not is_plain(path.name):
            raise UsageError(f"{path}: a store holds no file of such a name; move it out of the checkpoint.")
        if path.stat().st_size > MAX_VERBATIM_NBYTES:
            raise UsageError(f"{path}: larger than {MAX_VERBATIM_NBYTES} bytes; move it out of the checkpoint.")
    return verbatim


class Origin(Protocol):
    """What is converted: a checkpoint, or a store that is upgraded; attributes as of `Checkpoint`."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def revision(self) -> str | None:
        """Its commit."""

    @property
    def root(self) -> Path:
        """Its folder."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its config.json."""

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What tells that it changed."""

    def again(self) -> Origin:
        """Reads it anew."""


def check_unchanged(origin: Origin, before: Mapping[str, str]) -> None:
    """Compares an origin's fingerprint with an earlier one.

    Raises:
        SourceChangedError: Naming the first file that differs.
    """
    for name in sorted({*before, *origin.fingerprint}):
        if before.get(name) != origin.fingerprint.get(name):
            raise SourceChangedError(
                f"{origin.root / name}: changed since this conversion was begun. "
                "Remove the .partial folder to start over with what is there now."
            )


def _fingerprint(shards: Shards, verbatim: tuple[Path, ...]) -> Mapping[str, str]:
    prints = {}
    for path in shards.files:
        header = shards.headers[path]
        entries = repr([(e.name, e.dtype, e.shape, e.begin) for e in header.entries.values()])
        prints[path.name] = _print(path, digest.of([f"{header.data_offset} {entries}".encode()]))
    for path in verbatim:
        prints[path.name] = _print(path, digest.of([path.read_bytes()]))
    return prints


def _print(path: Path, contents: str) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {contents}"


def _verbatim(folder: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    code = _named_code(folder, config)
    for path in folder.iterdir():
        if path.name in (INDEX, MANIFEST) or path.name.startswith(".") or not path.is_file():
            continue
        if any(path.match(pattern) for pattern in VERBATIM) or path.name in code:
            yield path


def _named_code(folder: Path, config: Mapping[str, Any]) -> set[str]:
    """Returns the names of Python files that the configs name (model_file, auto_map) and those that they import."""
    wanted = [str(config["model_file"])] if config.get("model_file") else []
    tokenizer = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    for table in (config, tokenizer):
        mapped = table.get("auto_map") if isinstance(table, dict) else None
        values = mapped.values() if isinstance(mapped, dict) else []
        for value in values:
            references = value if isinstance(value, list) else [value]
            local = (r for r in references if isinstance(r, str) and "--" not in r)
            wanted.extend(r.split(".")[0] + ".py" for r in local)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        path = folder / name
        if name in found or Path(name).name != name or not path.is_file():
            continue
        found.add(name)
        if path.stat().st_size > MAX_CODE_NBYTES:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # MemoryError: nested too deep for the parser
            continue
        imports = (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module)
        wanted.extend(f"{str(n.module).split('.')[0]}.py" for n in imports)
    return found
