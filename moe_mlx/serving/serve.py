"""Starts a server and runs it to its end."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from moe_mlx.conversation.joining import Manner, join
from moe_mlx.machines.launched import launched
from moe_mlx.serving.app import application
from moe_mlx.serving.call import Call
from moe_mlx.serving.connections import listen, server_for
from moe_mlx.serving.engine import Engine
from moe_mlx.serving.guard import rules_for
from moe_mlx.serving.limits import Limits
from moe_mlx.serving.lineup import Lineup, ServedModel, allowed_models
from moe_mlx.serving.log import set_up
from moe_mlx.serving.opening import Loading, ModelOpening, caching_for, public_name
from moe_mlx.serving.prompts import Prompts
from moe_mlx.serving.service import Defaults, Service

log = logging.getLogger("moe_mlx.serve")


def serve(args: argparse.Namespace, loading: Loading) -> None:
    """Serves until it is told to end.

    Args:
        args: Of `moe-mlx serve`.
        loading: How they become a model.

    Raises:
        MoeMlxError: the address cannot be had, the model cannot be loaded, or the settings exclude each other.
    """
    set_up(args.log_level, args.log_format)
    rules = rules_for(
        args.host, key=args.api_key, key_file=args.api_key_file, hosts=args.allowed_hosts, origins=args.allowed_origins
    )
    if args.parallel is not None:
        # One answer at a time, so that all that is planned for KV caches is one conversation's.
        args = argparse.Namespace(**{**vars(args), "decode_concurrency": 1})
        if (found := launched()) is not None and found.rank:
            join(args, log.info, Manner(caching=caching_for(args)))
            return
        log.info("several machines answer one request at a time, and keep the prompt cache of the latest conversation")
    limits = Limits(
        body_bytes=args.max_body_bytes,
        waiting=args.max_waiting,
        at_once=args.decode_concurrency,
        shutdown_seconds=args.shutdown_seconds,
    )
    opening = ModelOpening(args, loading)
    others = allowed_models(args, loading)
    socket = listen(args.host, args.port)
    engine = Engine(opening, limits)
    try:
        engine.start()
        service = service_for(engine, opening, others, limits)
        port = socket.getsockname()[1]
        shown = f"[{args.host}]" if ":" in args.host else args.host
        log.info("serving %s at http://%s:%d", ", ".join(service.lineup.names), shown, port)
        server_for(application(service, rules), engine, limits).run(sockets=[socket])
    finally:
        socket.close()
        engine.stop()


def service_for(engine: Engine, opening: ModelOpening, others: Sequence[ServedModel], limits: Limits) -> Service:
    """Returns the service of an engine that has started with a model."""
    args, loaded, kept = opening.args, engine.loaded, engine.kept
    assert loaded is not None and kept is not None
    defaults = Defaults(
        max_tokens=args.max_tokens,
        temp=args.temp,
        top_p=args.top_p,
        top_k=args.top_k,
        min_p=args.min_p,
        num_draft_tokens=args.num_draft_tokens,
        template=args.chat_template_args,
    )
    prompts = Prompts(
        loaded.tokenizer,
        loaded.room,
        template=args.chat_template_args,
        boundaries=not kept.trimmable,
        pictures=loaded.runtime.pictures,
    )
    first = ServedModel(dict.fromkeys([*args.alias, public_name(args.model)]), opening, prompts)
    return Service(engine, Lineup(first, others, any_name=args.any_model), defaults, limits, _note)


def _note(request: Request, call: Call) -> None:
    """Lets the log say what an answer took when its request is over."""
    state: dict[str, Any] = request.scope["state"]
    state["call"] = call
