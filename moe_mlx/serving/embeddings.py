"""`/v1/embeddings`: refused, in so many words."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from moe_mlx.serving.refusal import RefusalError
from moe_mlx.serving.service import Service


async def refuse(request: Request, service: Service) -> Response:
    """Refuses.

    Raises:
        RefusalError: always.
    """
    raise RefusalError(
        400,
        "this server makes text, no embeddings: a model made for embeddings serves them better",
        code="unsupported",
    )
