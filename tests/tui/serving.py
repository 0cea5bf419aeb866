"""A site over a source that stands still, and tabs on it."""

import asyncio
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from moe_mlx_tui.engine.shared_engine import SharedEngine
from moe_mlx_tui.web.gate import Gate
from moe_mlx_tui.web.seats import Seats
from moe_mlx_tui.web.site import Site
from moe_mlx_tui.web.tab_options import TabOptions
from tests.tui import scene

PATIENCE = 60
ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)


@asynccontextmanager
async def site(options, folder, most=2):
    """Serves, and yields the site and how to open a tab."""
    served = Site(Gate("secret", here=True), Seats(folder / "tabs", most), options)
    runner = aiohttp.web.AppRunner(await served._make_app())
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    at = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(headers={"Cookie": "moe_mlx_token=secret", "Origin": at}) as http:

        async def tab(name, query="width=80&height=24"):
            return await http.ws_connect(f"{at}/ws/{name}?{query}", max_msg_size=0)

        served.at, served.fetch = at, lambda path: http.get(at + path)
        try:
            yield served, tab
        finally:
            await runner.cleanup()


async def drawn(tab, text):
    """Waits until a tab's app draws a text."""
    async with asyncio.timeout(PATIENCE):
        async for message in tab:
            if message.type == aiohttp.WSMsgType.BINARY and text.encode() in message.data:
                return
    raise AssertionError(f"closed with {tab.close_code}")


async def running(tab):
    """Waits until a tab's app is there: its prompt says what it takes."""
    await drawn(tab, "breaks the line")


async def closed(tab):
    """Waits until a tab is let go; returns the code."""
    async with asyncio.timeout(PATIENCE):
        async for _ in tab:
            pass
    return tab.close_code


def children():
    """Returns the tabs' processes that this process has started."""
    found = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    return [int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and "moe_mlx_tui.web.tab" in args]


async def serve_a_tab(folder):
    """Serves one tab, says which process it is, and waits to be killed."""
    home = SharedEngine(scene.Still(scene.idle()), folder / "s")
    home.start()
    told = TabOptions(engine=str(folder / "s"), home="", kept="", server=os.getpid())
    async with site(told, folder) as (_, open_tab):
        tab = await open_tab(ONE)
        await running(tab)
        print(*children(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve_a_tab(Path(sys.argv[1])))
