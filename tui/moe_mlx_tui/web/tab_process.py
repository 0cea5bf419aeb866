"""The process behind one tab: started without a shell, ended for certain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from typing import Any, cast

from textual_serve.app_service import AppService

from moe_mlx_tui.web.limits import GRACE
from moe_mlx_tui.web.tab_options import TabOptions


class TabProcess(AppService):
    """textual-serve's process, with a sure end: asked, then SIGTERM, then SIGKILL."""

    def __init__(self, options: TabOptions, *, close: Callable[[], Awaitable[Any]], **way_out: Any) -> None:
        super().__init__("", close=close, **way_out)
        self.options, self._ending = options, False

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        environment: dict[str, str] = super()._build_environment(width, height)
        return {**environment, **self.options.to_environment()}

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        command = [sys.executable, "-m", "moe_mlx_tui.web.tab"]
        environment = self._build_environment(width, height)
        self._process = process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, start_new_session=True
        )
        self._stdin = process.stdin
        return process

    @property
    def pid(self) -> int | None:
        """The process's number while there is one."""
        return self._process.pid if self._process is not None else None

    async def run(self) -> None:
        """Passes on what the process says; a page whose app has ended, or never came up, is let go."""
        await super().run()
        await self.remote_close()

    async def stop(self) -> None:
        """Ends the process, whatever it is doing, and waits until it is gone."""
        process: Process | None = self._process
        if process is None or self._ending:
            return
        self._ending = True
        await self._download_manager.cancel_app_downloads(app_service_id=self.app_service_id)
        with contextlib.suppress(Exception):  # a pipe that takes no more, or is closed: a signal follows
            await asyncio.wait_for(self.send_meta({"type": "quit"}), GRACE)
            self.stdin.close()
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            if number:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(process.wait(), GRACE)
                break
        task: asyncio.Task[None] | None = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        cast(Any, process)._transport.close()  # its pipes, where they were not read to their end
