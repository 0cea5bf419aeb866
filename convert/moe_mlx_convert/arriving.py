"""A hub repository that is converted while it is downloaded: headers first, then shard after shard.

What a store is going to hold is planned from headers, which are fetched by ranges of bytes. Of each shard that has
arrived everything is written, and compared, for which no later one is needed; after that it may be deleted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from moe_mlx.errors import StoreMissingError, UsageError
from moe_mlx.store import header
from moe_mlx.store.checkpoint import Shards
from moe_mlx.store.durable import Fs
from moe_mlx.store.files import open_regular
from moe_mlx.store.header import Entry
from moe_mlx.store.json_files import read_config
from moe_mlx.store.locate import Located
from moe_mlx.store.manifest import NAME as MANIFEST
from moe_mlx.store.resolve import PATTERNS
from moe_mlx_convert.checkpoint import Checkpoint, verbatim_files
from moe_mlx_convert.errors import ConvertError, SourceChangedError
from moe_mlx_convert.sources import Sources

#: What is fetched before anything is planned: all but weights.
_SMALL = [pattern for pattern in PATTERNS if pattern not in ("model*.safetensors", "experts/**")]


class HubUnreachableError(StoreMissingError):
    """The hub does not answer, or has no such repository of safetensors."""


class Repository:
    """A repository's shards on their way into the hub's cache.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit; it is pinned to the commit found at first.
        trust_remote_code: As for `convert`.

    Attributes:
        checkpoint: The repository as a checkpoint. Offsets of its tensors count from the start of their shard's data.
        sizes: Bytes of each shard.
    """

    def __init__(self, repo: str, revision: str | None, *, trust_remote_code: bool) -> None:
        from huggingface_hub import HfApi, snapshot_download

        api = HfApi()
        try:
            info = api.model_info(repo, revision=revision, files_metadata=True)
            self.commit = str(info.sha)
            sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
            if MANIFEST in sizes:
                raise UsageError(f"{repo}: already a store (it has a {MANIFEST}); nothing to convert.")
            folder = Path(snapshot_download(repo, revision=self.commit, allow_patterns=_SMALL))
            metadata = api.get_safetensors_metadata(repo, revision=self.commit)
        except UsageError:
            raise
        except Exception as error:  # the hub client raises a dozen kinds, some of them its HTTP library's
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise HubUnreachableError(
                f"{repo}: the hub gave no headers ({reason}). Check the name and the network."
            ) from error
        if nested := sorted(file for file in metadata.files_metadata if Path(file).name != file):
            raise HubUnreachableError(f"{repo}: its index names shards in other folders, such as {nested[0][:80]!r}.")
        self.repo = repo
        tensors = {
            name: Located(
                Entry(name, found.dtype, tuple(found.shape), *found.data_offsets), folder / file, found.data_offsets[0]
            )
            for file, described in sorted(metadata.files_metadata.items())
            for name, found in sorted(described.tensors.items(), key=lambda item: item[1].data_offsets)
        }
        files = tuple(sorted({located.shard for located in tensors.values()}))
        self.sizes = {path: sizes.get(path.name, 0) for path in files}
        shards = Shards(folder, files, {}, tensors, read_config(folder))
        verbatim = verbatim_files(shards, trust_remote_code=trust_remote_code)
        self.checkpoint = Checkpoint(repo, self.commit, shards, verbatim, {"commit": self.commit})
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="moe-mlx-fetch")
        self._coming: dict[Path, Future[None]] = {}

    @contextmanager
    def opened(self) -> Iterator[Repository]:
        """Ends the download under way when it is left."""
        try:
            yield self
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, shard: Path) -> None:
        """Starts to fetch a shard, once that of earlier ones is over."""
        if shard not in self._coming:
            self._coming[shard] = self._pool.submit(self._fetch, shard)

    def arrive(self, shard: Path) -> int:
        """Waits until a shard is here; returns where its data starts.

        Raises:
            ConvertError: it could not be fetched.
            SourceChangedError: it is not what its header said.
        """
        self.begin(shard)
        try:
            self._coming.pop(shard).result()
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConvertError(
                f"{self.repo}: {shard.name} could not be fetched ({reason}). Once the network is back, run the same "
                "command: it resumes."
            ) from error
        fd = open_regular(shard)
        try:
            found = header.read(fd, shard)
        finally:
            os.close(fd)
        expected = {n: t.entry for n, t in self.checkpoint.shards.tensors.items() if t.shard == shard}
        if dict(found.entries) != expected:
            raise SourceChangedError(f"{shard}: is not the file whose header was read; fetch the model again.")
        return found.data_offset

    def _fetch(self, shard: Path) -> None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(self.repo, shard.name, revision=self.commit)

    def delete(self, shard: Path) -> None:
        """Removes a shard from the hub's cache: its name, and the bytes behind it."""
        behind = shard.resolve()
        if shard.is_symlink() and behind.parent.name == "blobs":
            behind.unlink(missing_ok=True)
        shard.unlink(missing_ok=True)


class ArrivingSources(Sources):
    """Reads tensors of shards that have arrived, whose offsets count from the start of their data."""

    def __init__(self, fs: Fs, shards: Set[Path]) -> None:
        super().__init__(fs)
        self._shards = shards
        self._starts: dict[Path, int] = {}

    def arrived(self, shard: Path, start: int) -> None:
        """Notes where a shard's data starts."""
        self._starts[shard] = start

    def read(self, path: Path, buffer: memoryview, offset: int) -> None:
        """Fills a buffer from a shard's data, or from a small file."""
        super().read(path, buffer, offset + (self._starts[path] if path in self._shards else 0))


Needs = Mapping[str, frozenset[Path]]


def arrivals(shards: Sequence[Path], needs: Needs) -> list[Path]:
    """Returns the shards that something is still to be written from, in order."""
    wanted = frozenset[Path]().union(*needs.values())
    return [shard for shard in shards if shard in wanted]


def ready(needs: Needs, here: Set[Path]) -> list[str]:
    """Returns what can be written: everything it needs has arrived."""
    return [name for name, wanted in needs.items() if wanted <= here]
