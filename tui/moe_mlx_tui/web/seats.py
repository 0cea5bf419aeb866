"""Which tabs are open: how many at most, one connection a name, a folder each."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from moe_mlx.errors import MoeMlxError

#: A tab's name is made by its page: 128 random bits, kept by the browser for as long as the tab lives.
NAME = re.compile(r"[0-9a-f]{32}")
#: Folders kept beyond those in use, so that a tab that was closed or lost its network finds its conversation.
FOLDERS = 64


class FullError(MoeMlxError):
    """No more tabs are taken."""


class Seats:
    """The open tabs. `folder` holds what each keeps until the server ends."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._taken: dict[str, tuple[Callable[[], Awaitable[object]], asyncio.Event]] = {}

    def __len__(self) -> int:
        return len(self._taken)

    @asynccontextmanager
    async def seat(self, name: str, leave: Callable[[], Awaitable[object]]) -> AsyncIterator[Path]:
        """Holds a place and yields its folder; who held it under the same name is asked to leave first.

        Args:
            name: The tab's name.
            leave: Called when another connection comes under this name.

        Raises:
            FullError: every place is taken.
        """
        while (other := self._taken.get(name)) is not None:
            await other[0]()
            await other[1].wait()
        if len(self) >= self.most:
            raise FullError(f"all {self.most} tabs of this server are in use: close one and reload this page")
        gone = asyncio.Event()
        self._taken[name] = leave, gone
        try:
            yield self._own(name)
        finally:
            del self._taken[name]
            gone.set()

    def _own(self, name: str) -> Path:
        own = self.folder / name
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        own.touch()
        idle = sorted(
            (path for path in self.folder.iterdir() if path.name not in self._taken), key=lambda p: p.stat().st_mtime
        )
        for path in idle[: max(0, len(idle) - FOLDERS)]:
            shutil.rmtree(path, ignore_errors=True)
        return own
