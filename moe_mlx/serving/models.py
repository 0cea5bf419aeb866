"""`/v1/models`: what is served, by its names and never by its place."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.replies import Reply
from moe_mlx.serving.service import Service


def _row(service: Service, name: str) -> dict[str, Any]:
    room = service.lineup.named(name).room
    row = {
        "id": name,
        "object": "model",
        "created": service.began,
        "owned_by": "moe-mlx",
        "type": "model",
        "display_name": name,
    }
    return row if room is None else row | {"context_length": room.longest, "max_model_len": room.longest}


async def listed(request: Request, service: Service) -> Response:
    """Lists all names."""
    names = service.lineup.names
    rows = [_row(service, name) for name in names]
    return Reply({"object": "list", "data": rows, "has_more": False, "first_id": names[0], "last_id": names[-1]})


async def one(request: Request, service: Service) -> Response:
    """Describes one name.

    Raises:
        RefusalError: it is none (404).
    """
    name = request.path_params["name"]
    if name not in service.lineup.names:
        raise RefusalError(404, f"the model {name[:200]!r} is not served here", param="model", code="model_not_found")
    return Reply(_row(service, name))
