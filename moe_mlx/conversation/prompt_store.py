"""Prompt caches on disk: a conversation that was read once is not read again after a restart. For chat and serve alike.

One folder a model, two files a prompt: mlx-lm's cache file and the tokens it holds. A cache is found by the tokens that
it shares with a prompt; one that cannot be cut back (hybrids, sliding windows that are full) is used only whole. Files
are private to their user: from tokens the text can be read again. What is damaged, foreign or half written is no cache
and is removed; the one unused longest goes when the folder's bytes are used up. The folder is read once; what another
program adds is read when the folder has changed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import xxhash
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache
from numpy.typing import NDArray

from moe_mlx.errors import ExpertReadError
from moe_mlx.loading.cutting import can_always_cut, can_cut, cut_back
from moe_mlx.store.identity import identity_of
from moe_mlx.system.folders import user_folder
from moe_mlx.vlm.calling import built_by_mlx_vlm

if TYPE_CHECKING:
    from moe_mlx.conversation.sampling import KVCacheSettings
    from moe_mlx.loading.runtime import Runtime

#: Shorter prompts are read again sooner than their cache is.
LEAST_TOKENS = 64
#: Bytes of all caches of a model, unless told otherwise.
MOST_BYTES = 4 * 10**9
_DIGEST_NBYTES, _LARGEST_TOKENS = 16, 64 * 10**6
#: A file system's clock may be this coarse.
_TICK_NS = 2 * 10**9


@dataclass(slots=True)
class _Entry:
    """A prompt on disk. Its tokens' file: a digest of all the rest, one word that says `cuttable`, the tokens."""

    path: Path
    tokens: NDArray[np.uint32]
    cuttable: bool
    digest: bytes
    nbytes: int

    @property
    def tokens_path(self) -> Path:
        return self.path.with_suffix(".tokens")


class PromptStore:
    """The prompt caches of one model. Used by the thread that owns MLX.

    Attributes:
        folder: Where they lie.
        trimmable: Whether a cache may be cut back to a shared beginning however long it is.
        uncut: Whether the latest look found a beginning that could not be used because its cache cannot be cut back.
    """

    def __init__(
        self,
        folder: Path,
        make_cache: Callable[[], list[Any]],
        most_bytes: int = MOST_BYTES,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Looks at what is there.

        Args:
            folder: Of this model and these settings alone; made when something is kept.
            make_cache: Makes an empty prompt cache, whose kinds a loaded one has to have.
            most_bytes: What all of them may take.
            say: Gets one line where nothing can be kept.
        """
        self.folder, self.most_bytes, self._say = folder, most_bytes, say
        self._kinds = [type(cache).__name__ for cache in make_cache()]
        self.trimmable = can_always_cut(make_cache())
        self.uncut = False
        self._complained = False
        self._index: dict[str, _Entry] = {}
        self._seen: int | None = None  # the folder's time of change when it was read

    def find(self, prompt: Sequence[int], *, better_than: int = 0) -> tuple[list[Any], int] | None:
        """Returns the cache that holds the longest beginning of a prompt, and its length: all but one token at most.

        Args:
            prompt: Token ids.
            better_than: Tokens that are at hand anyway; nothing is loaded for less.
        """
        for usable, entry in self._ranked(prompt, better_than):
            cache = self._load(entry)
            if cache is not None and cut_back(cache, entry.tokens.size - usable):
                return cache, usable
        return None

    def held(self, prompt: Sequence[int]) -> int:
        """Returns how many tokens of a prompt will not be read again; nothing is loaded for that.

        Args:
            prompt: Token ids, such as a saved conversation's (`Session.encode`).
        """
        return next((usable for usable, _ in self._ranked(prompt, 0)), 0)

    def _ranked(self, prompt: Sequence[int], better_than: int) -> list[tuple[int, _Entry]]:
        """Returns the caches that hold a beginning of a prompt with its length, the longest first."""
        wanted = np.asarray(prompt, dtype=np.uint32)
        ranked: list[tuple[int, _Entry]] = []
        self.uncut = False
        for entry in self._entries():
            shared = _shared(entry.tokens, wanted)
            usable = min(shared, wanted.size - 1)
            if usable <= better_than:
                continue
            if entry.cuttable or usable == entry.tokens.size:
                ranked.append((usable, entry))
            else:
                self.uncut = self.uncut or usable >= LEAST_TOKENS
        return sorted(ranked, key=lambda pair: -pair[0])

    def keep(self, tokens: Sequence[int], cache: list[Any]) -> bool:
        """Writes a prompt cache; returns whether it is there now.

        Args:
            tokens: What it holds.
            cache: Evaluated, and not written to meanwhile.
        """
        held = np.asarray(tokens, dtype=np.uint32)
        if held.size < LEAST_TOKENS or sum(int(one.nbytes) for one in cache) > self.most_bytes:
            return False
        entries = self._entries()
        if any(
            _shared(entry.tokens, held) == held.size and (entry.cuttable or entry.tokens.size == held.size)
            for entry in entries
        ):
            return True
        cuttable = can_cut(cache)
        flag = np.uint32(cuttable).tobytes()
        name = xxhash.xxh3_128_hexdigest(held.tobytes())
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".half-") as half:
                written = Path(half) / f"{name}.safetensors"
                save_prompt_cache(str(written), cache)
                written.chmod(0o600)
                beside = written.with_suffix(".tokens")
                beside.write_bytes(_digest(written, flag + held.tobytes()) + flag + held.tobytes())
                beside.chmod(0o600)
                written.replace(self.folder / written.name)
                beside.replace(self.folder / beside.name)
        except (OSError, RuntimeError, ValueError) as error:
            if not self._complained:
                self._complained = True
                self._say(f"prompt caches cannot be kept in {self.folder}: {error}")
            return False
        if cuttable:  # its own beginnings add nothing
            for entry in entries:
                if entry.tokens.size < held.size and _shared(entry.tokens, held) == entry.tokens.size:
                    self._remove(entry)
        self._bound()
        return True

    def _entries(self) -> list[_Entry]:
        """Returns what lies there; reads the folder where it has changed, and of that what is new."""
        try:
            seen = self.folder.stat().st_mtime_ns
        except OSError:
            self._index, self._seen = {}, None
            return []
        if seen != self._seen:
            known = self._index
            names = sorted(path.name for path in self.folder.glob("*.tokens"))
            found = ((name, known.get(name) or _read_entry(self.folder / name)) for name in names)
            self._index = {name: entry for name, entry in found if entry is not None}
            # A folder that has just changed may change again within its clock's tick.
            self._seen = seen if time.time_ns() - seen > _TICK_NS else None
        return list(self._index.values())

    def _load(self, entry: _Entry) -> list[Any] | None:
        try:
            flag = np.uint32(entry.cuttable).tobytes()
            if _digest(entry.path, flag + entry.tokens.tobytes()) != entry.digest:
                raise ValueError("damaged")
            cache: list[Any] = load_prompt_cache(str(entry.path))
            if [type(one).__name__ for one in cache] != self._kinds:
                raise ValueError("of another kind")
            mx.eval([one.state for one in cache])
        except Exception:  # whatever mlx-lm raises over a strange file: it is no cache
            self._remove(entry)
            return None
        with suppress(OSError):
            os.utime(entry.path)
        return cache

    def _remove(self, entry: _Entry) -> None:
        self._index.pop(entry.tokens_path.name, None)
        for path in (entry.tokens_path, entry.path):
            with suppress(OSError):
                path.unlink()

    def _bound(self) -> None:
        entries = sorted(self._entries(), key=_last_use)
        over = sum(entry.nbytes for entry in entries) - self.most_bytes
        for entry in entries:
            if over <= 0:
                break
            self._remove(entry)
            over -= entry.nbytes
        for half in self.folder.glob(".half-*"):  # of a program that was killed
            with suppress(OSError):
                if half.stat().st_mtime < time.time() - 3600:
                    for path in half.iterdir():
                        path.unlink()
                    half.rmdir()


def open_prompt_store(
    runtime: Runtime,
    where: str | Path,
    caching: KVCacheSettings,
    *,
    adapter: str | None = None,
    most_bytes: int = MOST_BYTES,
    say: Callable[[str], None] = lambda line: None,
) -> PromptStore | None:
    """Returns a loaded model's store; None, with a remark, where the model cannot be told from others.

    What a cache holds depends on the model, its adapter, its routing, the KV cache's settings and the versions that
    computed it: a store is of all of them.

    Args:
        runtime: Of the model.
        where: A folder, or "auto" for the user's cache folder.
        caching: The KV cache's settings.
        adapter: Folder of a LoRA adapter, where there is one.
        most_bytes: What all caches of this model may take.
        say: Gets remarks.
    """
    from mlx_lm import __version__ as mlx_lm_version

    if built_by_mlx_vlm(runtime.model):
        say("no prompt caches are kept: mlx-lm writes them, and this model's are mlx-vlm's own")
        return None
    try:
        model = identity_of(runtime.source)
        base = user_folder() / "prompts" if str(where) == "auto" else Path(where).expanduser()
    except (ExpertReadError, RuntimeError) as error:
        say(f"no prompt caches are kept: {error}")
        return None
    kept = (caching.max_kv_size, caching.kv_bits, caching.kv_group_size, caching.quantized_kv_start)
    parts = [model, runtime.routing.describe(), repr(kept), mx.__version__, mlx_lm_version, str(mx.default_device())]
    if adapter is not None:
        files = sorted(Path(adapter).expanduser().glob("adapter*"))
        parts += [f"{path.name} {_digest(path).hex()}" for path in files]
    folder = base / xxhash.xxh3_128_hexdigest("\n".join(parts).encode())
    return PromptStore(folder, lambda: make_prompt_cache(runtime.model, caching.max_kv_size), most_bytes, say)


def _read_entry(path: Path) -> _Entry | None:
    """Reads what a file of tokens says; None where it is none."""
    cache = path.with_suffix(".safetensors")
    try:
        if path.stat().st_size > _LARGEST_TOKENS or not path.is_file() or path.is_symlink():
            return None
        data, stat = path.read_bytes(), cache.stat()
    except OSError:
        return None
    words = len(data) - _DIGEST_NBYTES
    if words < 8 or words % 4:
        return None
    held = np.frombuffer(data, dtype=np.uint32, offset=_DIGEST_NBYTES)
    return _Entry(cache, held[1:], bool(held[0]), data[:_DIGEST_NBYTES], stat.st_size + len(data))


def _last_use(entry: _Entry) -> float:
    """Returns when a cache was used last, by whichever program."""
    with suppress(OSError):
        return entry.path.stat().st_mtime
    return 0.0


def _shared(a: NDArray[np.uint32], b: NDArray[np.uint32]) -> int:
    """Returns how many tokens two prompts begin with alike."""
    size = min(a.size, b.size)
    differ = np.flatnonzero(a[:size] != b[:size])
    return int(differ[0]) if differ.size else int(size)


def _digest(path: Path, beside: bytes = b"") -> bytes:
    """Returns the digest of a file and of what goes with it."""
    sums = xxhash.xxh3_128(beside)
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            sums.update(part)
    return sums.digest()
