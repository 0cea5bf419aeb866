"""Who may use the served app: textual-serve checks nothing itself and starts a process per connection.

A random token is needed, on this machine too: other users and other programs of it reach the port as well. It is given
once in the address and kept in a cookie. Where only this machine is served, the name in the address must be this
machine's (another site's name may resolve to it), and a web socket may be opened by our own page only.
"""

from __future__ import annotations

import hmac
import re
import secrets
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from moe_mlx.system.addresses import is_loopback

COOKIE = "moe_mlx_token"
SOCKET = "/ws/"
_HOST = re.compile(r"[A-Za-z0-9.\-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
_REFUSED = "Open the whole address that `moe-mlx chat --web` printed: it ends in ?token=..."


def new_token() -> str:
    """Returns a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


class Gate:
    """A middleware.

    Attributes:
        token: What lets in.
        here: Whether this machine alone is served.
        cookie: The cookie's name; a browser sends it to every port of a host, so each server has its own.
    """

    def __init__(self, token: str, *, here: bool, cookie: str = COOKIE) -> None:
        self.token, self.here, self.cookie = token, here, cookie

    def _known(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def middleware(self) -> Middleware:
        """Returns what aiohttp calls before every handler."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            host = request.headers.get("Host", "")
            if not _HOST.fullmatch(host):
                return web.Response(status=400, text="no host")
            if self.here and not is_loopback(urlsplit(f"//{host}").hostname or ""):
                return web.Response(status=403, text="this server answers to this machine's own names only")
            origin = request.headers.get("Origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return web.Response(status=403, text="another site's page may not use this server")
            if self._known(request.query.get("token")) and request.path == "/":
                answer = web.HTTPFound("/")
                answer.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict")
                raise answer
            if not self._known(request.cookies.get(self.cookie)):
                return web.Response(status=403, text=_REFUSED)
            if request.path.startswith(SOCKET) and origin is None:
                return web.Response(status=403, text="a browser names its page; this did not")
            return await handler(request)

        return check
