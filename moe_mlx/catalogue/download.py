"""Brings a model from the hub into huggingface-hub's cache, told byte by byte, and stopped when asked to.

Files that have arrived stay: the same call goes on after the last of them. Stopped inside a file, huggingface-hub
throws that file's beginning away.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import MoeMlxError, StoreMissingError
from moe_mlx.store.hub_snapshot import real_store
from moe_mlx.store.resolve import PATTERNS

#: Seconds that the speed is averaged over.
WINDOW = 5.0


class StoppedError(MoeMlxError):
    """A download that was asked to stop; what has arrived stays."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """How far a download is: bytes here, bytes in all, bytes a second of late."""

    done: int
    total: int
    rate: float

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None while there is none."""
        return (self.total - self.done) / self.rate if self.rate > 0 else None


class Download:
    """One repository. `run` blocks; `stop` may be set by another thread or a signal."""

    def __init__(self, repo: str, revision: str | None, tell: Callable[[Arrived], None]) -> None:
        self.repo, self.revision, self.tell = repo, revision, tell
        self.stop = threading.Event()
        self._lock = threading.Lock()
        self._before = self._total = 0
        self._recent: deque[tuple[float, int]] = deque()

    def run(self) -> Path:
        """Downloads what is not here yet; returns the folder to run.

        Raises:
            StoreMissingError: no such repository, or no network.
            StoppedError: `stop` was set.
        """
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            self._measure()
            folder = snapshot_download(
                self.repo, revision=self.revision, allow_patterns=PATTERNS, tqdm_class=self._counter()
            )
        except StoppedError:
            raise
        except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
            raise self._failed(error) from error
        except Exception as error:  # the hub client raises a dozen kinds, some of them its HTTP library's
            if self.stop.is_set():
                raise self._stopped() from None
            raise self._failed(error) from error
        self._tell(self._total - self._before)
        return real_store(Path(folder))

    def _failed(self, error: Exception) -> StoreMissingError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return StoreMissingError(
            f"{self.repo} could not be fetched from the hub: {reason}. Check the name and the network, then run it "
            "again: files that have arrived stay."
        )

    def _stopped(self) -> StoppedError:
        return StoppedError(f"{self.repo}: stopped; the same command goes on after the files that have arrived")

    def _measure(self) -> None:
        """Finds out how many bytes there are in all, and how many of them are here."""
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.utils import filter_repo_objects

        info = HfApi().model_info(self.repo, revision=self.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        for name in filter_repo_objects(list(sizes), allow_patterns=PATTERNS):
            self._total += sizes[name]
            if isinstance(try_to_load_from_cache(self.repo, name, revision=info.sha), str):
                self._before += sizes[name]
        self._tell(0)

    def _tell(self, fresh: int) -> None:
        now = time.monotonic()
        with self._lock:
            self._recent.append((now, fresh))
            while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW:
                self._recent.popleft()
            (since, before), (until, after) = self._recent[0], self._recent[-1]
            rate = (after - before) / (until - since) if until > since else 0.0
        self.tell(Arrived(min(self._total, self._before + fresh), self._total, rate))

    def _counter(self) -> type[Any]:
        """Returns a class in tqdm's place that draws nothing, counts bytes, and ends the download when asked to."""
        from tqdm import tqdm

        download = self

        class Counter(tqdm):
            def __init__(self, *args: Any, **options: Any) -> None:
                self.in_bytes = options.get("unit") == "B"
                super().__init__(*args, **{**options, "disable": True})
                self.n = options.get("initial") or 0

            def update(self, n: float | None = 1) -> bool | None:
                if download.stop.is_set():
                    raise download._stopped()
                if self.in_bytes:
                    self.n += n or 0
                    download._tell(int(self.n))
                return None

        return Counter
