"""mlx-lm's server where a request may fail without taking the server along.

In mlx_lm/server.py an exception in a batch ends the thread that generates, and every later request is refused. Here an
expert that cannot be read, or memory pressure at the cap's floor, ends the requests at hand; the next one is answered.
"""

from __future__ import annotations

import gc
import json
import logging
import socket
import threading
import weakref
from collections.abc import Iterator
from queue import Queue
from typing import Any

from mlx import nn
from mlx_lm import server

from moe_mlx.errors import MoeMlxError
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.pressure import PressureWatch


class Generator(server.ResponseGenerator):
    """mlx-lm's generator; its model is loaded, or found impossible to load, before it can be used.

    Raises:
        Exception: what loading the model raised.
    """

    def __init__(self, model_provider: server.ModelProvider, prompt_cache: server.LRUPromptCache) -> None:
        self._waiting: weakref.WeakSet[Queue[Any]] = weakref.WeakSet()
        self._loaded = threading.Event()
        self._refusal: Exception | None = None
        super().__init__(model_provider, prompt_cache)
        try:
            self._loaded.wait()
        except BaseException:
            self._stop = True
            raise
        if self._refusal is not None:
            raise self._refusal

    def _generate(self) -> None:
        try:
            self.model_provider.load_default()
        except Exception as error:
            self._refusal = error
            return
        finally:
            self._loaded.set()
        while not self._stop:
            try:
                super()._generate()
            except MoeMlxError as error:
                self._give_up(error.with_traceback(None))
            self.model_provider.load_default()

    def _next_request(self, timeout: float | None = None) -> Any:
        request = super()._next_request(timeout)
        if request is not None:
            self._waiting.add(request[0])
        return request

    def _give_up(self, error: MoeMlxError) -> None:
        """Tells all who wait for an answer, and throws away what the failed step may have left in prompt caches."""
        logging.error(str(error))
        gc.collect()  # mlx-lm's batch, which its own frames kept
        self.prompt_cache.trim_to(n_sequences=0)
        if self.model_provider.model is not None:
            runtime_of(self.model_provider.model).end_turn()
        for queue in list(self._waiting):
            queue.put(error)
        self._waiting.clear()


class Handler(server.APIHandler):
    """mlx-lm's handler; an answer that failed is an error of the server's, and says which."""

    def handle_completion(self, request: Any, stop_words: list[str]) -> None:
        """Answers, or sends 500 and what went wrong; in a stream, an event with it."""
        try:
            super().handle_completion(request, stop_words)
        except MoeMlxError as error:
            said = json.dumps({"error": str(error)})
            if self.stream:
                self.wfile.write(f"data: {said}\n\n".encode())
            else:
                self._headers_buffer: list[bytes] = []  # mlx-lm has prepared a 200, and not sent it
                self._set_completion_headers(500)
                self.end_headers()
                self.wfile.write(said.encode())
            self.wfile.flush()


class Batches(server.BatchGenerator):
    """mlx-lm's batches, with a look at the memory pressure between two steps."""

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self._watch = PressureWatch(runtime_of(model), logging.warning)

    def next(self) -> Any:
        """Returns what mlx-lm's does.

        Raises:
            DoesNotFitError: pressure goes on although the expert cache is at its floor.
            ExpertReadError: an expert of the step could not be read.
        """
        self._watch.between_tokens()
        found = super().next()
        self._watch.runtime.check_token()
        return found


def _watched_generate(model: nn.Module, *args: Any, **options: Any) -> Iterator[Any]:
    watch = PressureWatch(runtime_of(model), logging.warning)
    for piece in _stream_generate(model, *args, **options):
        watch.runtime.check_token()
        yield piece
        watch.between_tokens()


def _check_address(host: str, port: int) -> None:
    """Finds out whether the server can listen there, before a model is loaded for it."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        socket.create_server(address[:2], family=family).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MoeMlxError(f"cannot listen on {host}, port {port}: {reason}. Name another --host or --port.") from error


def _run(host: str, port: int, model_provider: server.ModelProvider) -> None:
    _check_address(host, port)
    generator = Generator(model_provider, server.LRUPromptCache(model_provider.cli_args.prompt_cache_size))
    try:
        server._run_http_server(host, port, generator, handler_class=Handler)
    except BaseException:  # its thread would keep the process
        generator.stop_and_join()
        raise


_stream_generate = server.stream_generate


def serve(load: Any) -> None:
    """Runs `mlx_lm.server` on `sys.argv`.

    Args:
        load: Stands in for `mlx_lm.load` where a model is served; a draft model is loaded whole, by mlx-lm.
    """
    load_whole = server.load

    def load_either(path: str, **options: Any) -> Any:
        return load(path, **options) if options.get("return_config") else load_whole(path, **options)

    server.load = load_either
    server.BatchGenerator, server.stream_generate, server.run = Batches, _watched_generate, _run
    server.main()
