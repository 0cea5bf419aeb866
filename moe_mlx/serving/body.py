"""A request's body: read within bounds of size and time, JSON without surprises, checked by a schema."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from moe_mlx.serving.limits import Limits
from moe_mlx.serving.refusal import GoneError, RefusalError, invalid, of_validation

Schema = TypeVar("Schema", bound=BaseModel)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Returns the body.

    Raises:
        RefusalError: no JSON by its content type, too large, or too slow.
        GoneError: the client left meanwhile.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise RefusalError(415, "send JSON: Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusalError(415, "send the body as it is, without Content-Encoding")
    told = request.headers.get("content-length", "0")
    if told.isdigit() and (len(told) > 15 or int(told) > limits.body_bytes):
        raise RefusalError(413, f"the body is larger than {limits.body_bytes:,} bytes")
    whole = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                whole += part
                if len(whole) > limits.body_bytes:
                    raise RefusalError(413, f"the body is larger than {limits.body_bytes:,} bytes")
    except TimeoutError:
        raise RefusalError(408, f"the body did not arrive within {limits.body_seconds:g} s") from None
    except ClientDisconnect:
        raise GoneError from None
    return bytes(whole)


def parse(body: bytes, schema: type[Schema]) -> Schema:
    """Returns the body as the schema has it.

    Raises:
        RefusalError: no UTF-8, no JSON, nested too deep, numbers that are none, or not what the schema takes.
    """
    try:
        value: Any = from_json(body, allow_inf_nan=False, cache_strings=False)
    except ValueError as error:
        raise invalid(f"the body is no JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise invalid("the body is no JSON object")
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise of_validation(error.errors(include_url=False, include_input=False, include_context=False)) from None
    except RecursionError:
        raise invalid("the body is nested too deep") from None


async def read(request: Request, schema: type[Schema], limits: Limits) -> Schema:
    """Reads a body and checks it; raises as `read_body` and `parse` do."""
    body = await read_body(request, limits)
    if len(body) < 100_000:
        return parse(body, schema)
    return await asyncio.to_thread(parse, body, schema)  # others go on meanwhile
