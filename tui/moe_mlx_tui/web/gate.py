"""Who may use the served app: textual-serve checks nothing itself and starts a process per connection.

Beyond this machine a random token is needed, given once in the address and kept in a cookie. On this machine the name
in the address must be this machine's (another site's name may resolve to it), and a web socket may be opened by our own
page only.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

COOKIE = "moe_mlx_token"
_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
_REFUSED = "Open the whole address that `moe-mlx chat --web` printed: it ends in ?token=..."

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Whether an address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def new_token() -> str:
    """Returns a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


class Gate:
    """A middleware. `token` is None where the server is bound to this machine only."""

    def __init__(self, token: str | None) -> None:
        self.token = token

    def _known(self, given: str | None) -> bool:
        return self.token is None or (given is not None and hmac.compare_digest(given.encode(), self.token.encode()))

    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """Returns what aiohttp calls before every handler."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            host = request.headers.get("Host", "")
            if not _HOST.fullmatch(host):
                return web.Response(status=400, text="no host")
            name = urlsplit(f"//{host}").hostname or ""
            if self.token is None and not is_loopback(name):
                return web.Response(status=403, text="this server answers to this machine's own names only")
            origin = request.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return web.Response(status=403, text="another site's page may not use this server")
            if self.token is not None and self._known(request.query.get("token")) and request.path == "/":
                answer = web.HTTPFound("/")
                answer.set_cookie(COOKIE, self.token, httponly=True, samesite="Strict")
                raise answer
            if not self._known(request.cookies.get(COOKIE)):
                return web.Response(status=403, text=_REFUSED)
            if request.path == "/ws" and origin is None:
                return web.Response(status=403, text="a browser names its page; this did not")
            return await handler(request)

        return check
