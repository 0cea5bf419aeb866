"""A headless Chromium, driven over its debugging socket; nothing but aiohttp is needed."""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
from pathlib import Path

from aiohttp import ClientSession, WSMsgType

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
MAC = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
PATIENCE = 60
#: Keeps what the server sends to the terminal: it is drawn on a canvas, where nothing can be read.
HEARING = """
window.heard = '';
const Deaf = WebSocket;
window.WebSocket = class extends Deaf {
  constructor(...where) {
    super(...where);
    this.addEventListener('message', async ({ data }) => {
      if (data instanceof Blob) window.heard += await data.text();
      else if (data instanceof ArrayBuffer) window.heard += new TextDecoder().decode(data);
    });
  }
};
"""


def find():
    """Returns the path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), str(MAC) if MAC.exists() else None)


class Tab:
    """One page: commands out, events in."""

    def __init__(self, socket):
        self.socket, self.number = socket, 0
        self.waiting, self.requested, self.thrown = {}, [], []
        self.loaded = asyncio.Event()

    async def listen(self):
        """Takes in what the browser says."""
        async for message in self.socket:
            if message.type != WSMsgType.TEXT:
                continue
            said = message.json()
            if "id" in said:
                self.waiting.pop(said["id"]).set_result(said)
            elif said["method"] == "Network.requestWillBeSent":
                self.requested.append(said["params"]["request"]["url"])
            elif said["method"] == "Page.domContentEventFired":
                self.loaded.set()
            elif said["method"] == "Runtime.exceptionThrown":
                self.thrown.append(said["params"]["exceptionDetails"])

    async def do(self, method, **params):
        """Gives a command and returns its result."""
        self.number += 1
        answer = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        said = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in said, (method, said)
        return said["result"]

    async def ask(self, expression):
        """Returns the value of an expression."""
        said = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    async def drawn(self, words):
        """Waits until the app has drawn some words."""
        await self.until(f"heard.includes({json.dumps(words)})")

    async def until(self, expression):
        """Waits until an expression is true; looks once a frame."""
        looking = (
            "new Promise((done) => { const look = () => { let v = false; try { v = " + expression + " } catch {} "
            "v ? done(v) : requestAnimationFrame(look) }; look() })"
        )
        return await self.ask(looking)

    async def size(self, width, height, *, touch=False):
        """Gives the page a size, and a finger instead of a mouse."""
        await self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )
        await self.do("Emulation.setTouchEmulationEnabled", enabled=touch)

    async def go(self, url):
        """Opens an address; returns when the page is there, for what is asked before is asked of the one before."""
        await self._load("Page.navigate", url=url)

    async def reload(self):
        """Loads the page anew."""
        await self._load("Page.reload")

    async def _load(self, method, **params):
        self.loaded.clear()
        await self.do(method, **params)
        await asyncio.wait_for(self.loaded.wait(), PATIENCE)

    async def type(self, text):
        """Types."""
        await self.do("Input.insertText", text=text)

    async def press(self, key, code, number):
        """Presses a key."""
        text = "\r" if key == "Enter" else ""
        for kind in ("keyDown", "keyUp"):
            await self.do(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=code,
                windowsVirtualKeyCode=number,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    async def click(self, x, y):
        """Clicks at a place of the page."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def picture(self, path):
        """Writes what is seen."""
        said = await self.do("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(said["data"]))


@contextlib.asynccontextmanager
async def browse(program, folder):
    """Starts a browser with an empty profile and yields its page."""
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        address = await asyncio.wait_for(asyncio.to_thread(_address, process), PATIENCE)
        async with ClientSession() as http:
            page = next(t for t in await (await http.get(f"{address}/json")).json() if t["type"] == "page")
            async with http.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=1 << 26) as socket:
                tab = Tab(socket)
                listener = asyncio.create_task(tab.listen())
                for domain in ("Page", "Network", "Runtime"):
                    await tab.do(f"{domain}.enable")
                await tab.do("Page.addScriptToEvaluateOnNewDocument", source=HEARING)
                yield tab
                listener.cancel()
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _address(process):
    """Reads where the debugging port is from what the browser says first."""
    for line in process.stderr:
        if b"DevTools listening on ws://" in line:
            return "http://" + line.decode().split("ws://", 1)[1].split("/", 1)[0]
    raise AssertionError("the browser did not start")
