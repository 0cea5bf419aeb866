"""What `moe-mlx replay` calls: the recording on a terminal, or one moment of it as a picture."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from moe_mlx.errors import StoreMissingError, UsageError
from moe_mlx_tui.recording.player import Player
from moe_mlx_tui.recording.recording import Recording
from moe_mlx_tui.recording.replay_app import ReplayApp


def play(path: Path, *, at: float = 0.0, plain: bool = False, theme: str | None = None) -> int:
    """Opens a recording on this terminal."""
    player = Player(Recording(path))
    app = ReplayApp(player, plain=plain, theme_name=theme)
    if at:
        app.call_later(player.seek, at)
    return int(app.run() or 0)


def draw(
    path: Path,
    out: Path,
    size: str,
    *,
    at: float | None = None,
    plain: bool = False,
    theme: str | None = None,
    swapped: bool = False,
) -> int:
    """Writes the screen at a moment of a recording as SVG.

    Raises:
        UsageError: no size can be read.
        StoreMissingError: the picture cannot be written.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None or not all(10 <= int(side) <= 1000 for side in match.groups()):
        raise UsageError(f"size {size!r}: give columns and rows from 10 to 1000, such as 132x40")
    player = Player(Recording(path), clock=lambda: 0.0)
    app = ReplayApp(player, plain=plain, theme_name=theme, poll=False, as_chat=True)
    moment = player.recording.seconds if at is None else at
    svg = asyncio.run(_picture(app, player, moment, (int(match[1]), int(match[2])), swapped))
    try:
        out.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise StoreMissingError(f"cannot write {out}: {error.strerror}") from error
    return 0


async def _picture(app: ReplayApp, player: Player, at: float, size: tuple[int, int], swapped: bool) -> str:
    async with app.run_test(size=size) as pilot:
        if swapped:
            app.action_swap_map()
        recording = player.recording
        until = recording.index_at(at)
        for index in range(max(0, until - 400), until + 1):  # the sparklines come from what was before
            app.trends.feed(recording.at(index))
        player.seek(at)
        app.call_later(app.tick)
        for _ in range(4):
            await pilot.pause()
        return app.export_screenshot(title="moe-mlx")
