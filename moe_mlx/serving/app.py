"""The endpoints, put together."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moe_mlx.errors import MoeMlxError
from moe_mlx.serving import (
    chat_completions,
    completions,
    embeddings,
    experts,
    health,
    messages,
    metrics,
    models,
    responses,
)
from moe_mlx.serving.guard import Guard, Rules
from moe_mlx.serving.job import Usage
from moe_mlx.serving.refusal import GoneError, RefusalError, refusal_of
from moe_mlx.serving.replies import refused
from moe_mlx.serving.service import Service

log = logging.getLogger("moe_mlx.serve")

Endpoint = Callable[[Request, Service], Awaitable[Response]]
#: Path, method, what answers.
ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("/v1/chat/completions", "POST", chat_completions.answer),
    ("/chat/completions", "POST", chat_completions.answer),
    ("/v1/completions", "POST", completions.answer),
    ("/v1/responses", "POST", responses.answer),
    ("/v1/messages", "POST", messages.answer),
    ("/v1/messages/count_tokens", "POST", messages.count),
    ("/v1/embeddings", "POST", embeddings.refuse),
    ("/v1/models", "GET", models.listed),
    ("/v1/models/{name:path}", "GET", models.one),
    ("/health", "GET", health.health),
    ("/metrics", "GET", metrics.answer),
    ("/v1/experts", "GET", experts.watch),
)


def application(service: Service, rules: Rules) -> Guard:
    """Returns the ASGI application."""
    middleware = []
    if rules.origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=list(rules.origins), allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        )
    routes = [Route(path, _within_bounds(endpoint, service), methods=[method]) for path, method, endpoint in ROUTES]
    missing = {404: _told(404, "there is nothing at this path"), 405: _told(405, "this path takes another method")}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=missing)
    app.state.metrics = figures = metrics.Metrics(service.engine)
    paths = {path for path, _, _ in ROUTES}

    def over(path: str, status: int, usages: Sequence[Usage]) -> None:
        figures.request(path if path in paths else "other", status, usages)

    return Guard(app, rules, over)


def _within_bounds(endpoint: Endpoint, service: Service) -> Callable[[Request], Awaitable[Response]]:
    """Turns whatever an endpoint raises into an answer that tells a client what it may know."""

    async def bounded(request: Request) -> Response:
        try:
            return await endpoint(request, service)
        except GoneError:
            return Response(status_code=499)
        except RefusalError as refusal:
            return _in_its_shape(request, refusal)
        except MoeMlxError as error:
            log.warning("%s: %s", request.url.path, error)
            return _in_its_shape(request, refusal_of(error))
        except Exception as error:
            log.exception("%s: unexpected %s", request.url.path, type(error).__name__)
            return _in_its_shape(request, refusal_of(error))

    return bounded


def _in_its_shape(request: Request, refusal: RefusalError) -> Response:
    anthropic = request.url.path.startswith("/v1/messages")
    return refused(refusal, refusal.anthropic() if anthropic else refusal.openai())


def _told(status: int, words: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def told(request: Request, error: Exception) -> Response:
        return _in_its_shape(request, RefusalError(status, words))

    return told
