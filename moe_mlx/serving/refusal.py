"""What a client is told when its request is not answered: code, kind and words, never a folder or a stack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from moe_mlx.errors import (
    DoesNotFitError,
    ExpertReadError,
    MachinesError,
    MoeMlxError,
    NotFiniteError,
    UsageError,
)

#: Seconds after which a client that was turned away may try again.
RETRY_SECONDS = 2


class RefusalError(Exception):
    """A request that is not answered.

    Attributes:
        status: The HTTP code.
        message: What is wrong and what to do next.
        kind: OpenAI's `type` of the error.
        param: The field at fault, where it is one.
        code: OpenAI's `code`, where it has one.
    """

    def __init__(
        self, status: int, message: str, *, kind: str = "", param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.kind = kind or _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go along."""
        headers = {"retry-after": str(RETRY_SECONDS)} if self.status in (429, 503) else {}
        if self.status in (401, 403, 408, 413, 415):  # what is left of the body is not waited for
            headers["connection"] = "close"
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def openai(self) -> dict[str, Any]:
        """Returns the body as OpenAI writes it."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """Returns the body as Anthropic writes it."""
        kind = _ANTHROPIC.get(self.status, "invalid_request_error" if self.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}


_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    **_KINDS,
    413: "request_too_large",
    503: "overloaded_error",
    529: "overloaded_error",
}


class GoneError(Exception):
    """The client went away; nobody is told."""


def invalid(message: str, param: str | None = None, code: str | None = None) -> RefusalError:
    """Returns a refusal of something in the request itself."""
    return RefusalError(400, message, param=param, code=code)


def too_long(prompt: int, most: int, why: str) -> RefusalError:
    """Returns the refusal of a prompt that is too long."""
    return RefusalError(
        400,
        f"the prompt has {prompt:,} tokens, this server takes {most:,}: {why}",
        param="messages",
        code="context_length_exceeded",
    )


def refusal_of(error: BaseException) -> RefusalError:
    """Returns what a client is told of an error that ended its answer; the server's log has the rest."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, ExpertReadError):
        return RefusalError(
            500,
            f"layer {error.layer}, expert {error.expert}: "
            f"{error.reason.replace(str(error.path), error.path.name)} "
            f"({error.path.name}). Whoever runs this server can find the damage with `moe-mlx verify`.",
            code="expert_unreadable",
        )
    if isinstance(error, DoesNotFitError | MemoryError):
        return RefusalError(503, "the server is short of memory: try again later, or send less", code="out_of_memory")
    if isinstance(error, UsageError):
        return RefusalError(400, "the model does not take this conversation: " + _placeless(error))
    if isinstance(error, NotFiniteError):
        return RefusalError(500, str(error), code="not_finite")
    if isinstance(error, MachinesError):
        rank = re.match(r"rank \d+", str(error))
        return RefusalError(
            503,
            f"{rank[0] if rank else 'one'} of the machines that run this model is gone or has failed; the server's log "
            "says why, and whoever runs it has to start it again on all of them",
            code="machine_lost",
        )
    if isinstance(error, MoeMlxError):
        return RefusalError(500, "the answer failed in the model; the server's log says why", code="model_error")
    return RefusalError(500, "the answer failed inside the server; its log says why", code="internal_error")


def _placeless(error: MoeMlxError) -> str:
    """Returns an error's words without anything that looks like a place in the file system."""
    return " ".join("[...]" if word.strip("('\"").startswith(("/", "~/")) else word for word in str(error).split())


#: Parts of a fault's place that name a branch of a union and no field.
_BRANCH = ("constrained-", "function-", "tagged-", "list[", "dict[", "json-or-python")


def of_validation(errors: Sequence[Any]) -> RefusalError:
    """Returns the refusal of a body that a schema did not take: the first fault, and where it is."""
    place = _place(errors[0])
    said = dict.fromkeys(_said(error) for error in errors if _place(error).startswith(place))
    words = "; or: ".join(list(said)[:3])
    more = "" if all(_place(error).startswith(place) for error in errors) else " (and more after it)"
    return invalid(f"{place or 'the body'}: {words}{more}", param=place or None)


def _place(error: Any) -> str:
    parts = [str(part) for part in error["loc"]]
    kept = [part for part in parts if not part.startswith(_BRANCH) and part not in ("str", "int", "float", "bool")]
    return ".".join(kept)[:200]


def _said(error: Any) -> str:
    if error["type"] == "string_unicode":
        return "the text is no valid Unicode"
    return str(error["msg"]).removeprefix("Value error, ")[:300]
