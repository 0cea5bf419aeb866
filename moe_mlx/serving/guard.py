"""Who may ask: Host, Origin and key of every request, looked at before anything else is."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_mlx.errors import UsageError
from moe_mlx.serving.job import Usage
from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import refused
from moe_mlx.system.addresses import is_loopback

log = logging.getLogger("moe_mlx.serve")

#: The environment's name for the key.
KEY_VARIABLE = "MOE_MLX_API_KEY"
_LOCAL = ("localhost", "127.0.0.1", "::1")
#: Answered without a key: says whether the server lives, and nothing else.
OPEN_PATHS = ("/health",)
_NO_PAGES = "web pages may not ask this server; --allowed-origins names those that may"
_NO_SUCH_NAME = "this server is not called that; whoever runs it can name it with --allowed-hosts"


@dataclass(frozen=True, slots=True)
class Rules:
    """Who may ask.

    Attributes:
        key: What every request has to bring; None for no key.
        hosts: Names that the server may be called by, beside its addresses.
        addresses: Whether any address is such a name: beyond loopback, where a key is asked for anyway.
        origins: Web pages that may ask, "*" for all.
    """

    key: str | None = None
    hosts: tuple[str, ...] = _LOCAL
    addresses: bool = False
    origins: tuple[str, ...] = ()


def rules_for(
    host: str, *, key: str | None, key_file: str | None, hosts: Sequence[str] = (), origins: Sequence[str] = ()
) -> Rules:
    """Returns the rules for a server that listens on a host.

    Raises:
        UsageError: it would be open to the network without a key, or the key cannot be read or is too short.
    """
    if key is not None and key_file is not None:
        raise UsageError("--api-key and --api-key-file contradict each other: give one")
    if key_file is not None:
        try:
            key = Path(key_file).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {key_file}: {getattr(error, 'strerror', None) or error}") from error
    key = key if key is not None else os.environ.get(KEY_VARIABLE)
    if key is not None and (len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key):
        raise UsageError("the API key is too short, or has signs that no header takes: 8 or more of ASCII, no spaces")
    local = is_loopback(host)
    if not local and key is None:
        raise UsageError(
            f"--host {host} is open to the network: give a key (--api-key-file, or {KEY_VARIABLE}), or listen on "
            "127.0.0.1"
        )
    names = {*_LOCAL, *hosts} | (set() if host in ("0.0.0.0", "::", "") else {host})
    if not local:
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
    return Rules(key, tuple(sorted(names)), not local, tuple(origins))


#: Told of every request that is over: its path, its status, and what its answers took.
Over = Callable[[str, int, Sequence[Usage]], None]


class Guard:
    """ASGI middleware: refuses who may not ask, gives every request a number, logs and counts it."""

    def __init__(self, app: ASGIApp, rules: Rules, over: Over = lambda path, status, usages: None) -> None:
        self.app, self.rules, self.over = app, rules, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        number, began = f"req_{uuid.uuid4().hex}", time.monotonic()
        state: dict[str, Any] = scope.setdefault("state", {})
        state["request"] = number
        status = 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = headers["request-id"] = number
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            headers = Headers(scope=scope)
            try:
                state["known"] = self.check(scope["method"], scope["path"], headers)
            except RefusalError as refusal:
                anthropic = scope["path"].startswith("/v1/messages")
                body = refusal.anthropic() if anthropic else refusal.openai()
                await refused(refusal, body)(scope, receive, numbered)
                return
            await self.app(scope, receive, numbered)
        finally:
            self._log(scope, state, number, status, time.monotonic() - began)
            call = state.get("call")
            self.over(scope["path"], status, call.usages if call is not None else ())

    def check(self, method: str, path: str, headers: Headers) -> bool:
        """Looks at one request's head.

        Returns:
            Whether the key is right, or none is needed; what is open to all tells such clients more.

        Raises:
            RefusalError: it may not ask.
        """
        host = headers.get("host", "")
        if len(headers.getlist("host")) > 1 or not self._known(host):
            raise RefusalError(
                403, "this server is not called that; whoever runs it can say --allowed-hosts", code="host"
            )
        origin = headers.get("origin")
        elsewhere = origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if elsewhere or (origin is not None and not self._welcome(origin, host)):
            raise RefusalError(403, _NO_PAGES, code="origin")
        if self.rules.key is None:
            return True
        given = headers.get("x-api-key", "")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = token.strip()
        known = hmac.compare_digest(given.encode("utf-8", "replace"), self.rules.key.encode())
        if not known and path not in OPEN_PATHS and method != "OPTIONS":
            raise RefusalError(
                401, "an API key is needed: Authorization: Bearer KEY, or x-api-key: KEY", code="invalid_api_key"
            )
        return known

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower().rstrip(".")
        except ValueError:
            return False
        if name in self.rules.hosts:
            return True
        try:
            return self.rules.addresses and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    def _welcome(self, origin: str, host: str) -> bool:
        if "*" in self.rules.origins or origin in self.rules.origins:
            return True
        try:
            return origin != "null" and urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False

    @staticmethod
    def _log(scope: Scope, state: dict[str, Any], number: str, status: int, seconds: float) -> None:
        fields = {
            "request": number,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
            **state.get("took", {}),
        }
        if (call := state.get("call")) is not None and call.usages:
            fields |= call.summary()
        log.info("%s", " ".join(f"{name}={value}" for name, value in fields.items()), extra={"fields": fields})
