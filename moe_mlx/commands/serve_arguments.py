"""Arguments of `moe-mlx serve`: mlx_lm.server's by their names, and those that bound what clients may do."""

from __future__ import annotations

import argparse
import json
from typing import Any

from moe_mlx.commands.draft_arguments import add_draft_arguments
from moe_mlx.commands.store_arguments import add_store_arguments, sized
from moe_mlx.system.given import words_of

#: What `--allow-models` is where it names none.
ALL_FOUND = ""


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("no JSON object")
    return value


def _from(least: float, most: float = float("inf"), kind: type = int) -> Any:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is out of range: {least:g} to {most:g}")
        return value

    return read


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds everything that is not about the model itself."""
    net = parser.add_argument_group("who may ask")
    net.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond this machine a key is required")
    net.add_argument("--port", type=_from(0, 65535), default=8080, help="(default: 8080)")
    net.add_argument("--api-key", metavar="KEY", help="key of every request; seen by `ps`: better the file")
    net.add_argument("--api-key-file", metavar="FILE", help="file that holds it; or set $MOE_MLX_API_KEY")
    net.add_argument(
        "--allowed-origins", type=words_of, default=[], metavar="LIST", help="web pages that may ask; none"
    )
    net.add_argument("--allowed-hosts", type=words_of, default=[], metavar="LIST", help="further names of this server")
    names = parser.add_argument_group("names")
    names.add_argument("--alias", action="append", default=[], metavar="NAME", help="what clients may call the model")
    names.add_argument("--any-model", action="store_true", help="answer whatever model a client names")
    names.add_argument(
        "--allow-models",
        nargs="?",
        const=ALL_FOUND,
        metavar="LIST",
        help="other models that a client may name, one at a time in memory: names or folders, comma-separated; without "
        "a list all that `moe-mlx list` shows here. Nothing is downloaded for a client, and none may name a path",
    )
    bounds = parser.add_argument_group("bounds")
    bounds.add_argument(
        "--max-kv-size",
        type=_from(64),
        metavar="TOKENS",
        help="KV cache to plan for, of all answers under way and all prompts kept (default: 8192)",
    )
    bounds.add_argument("--max-waiting", type=_from(0), default=32, help="requests in the queue (default: 32)")
    bounds.add_argument(
        "--max-body-bytes", type=sized, default=16_000_000, metavar="SIZE", help="largest request (default: 16MB)"
    )
    bounds.add_argument(
        "--shutdown-seconds", type=_from(0, kind=float), default=10.0, help="for answers under way (default: 10)"
    )
    bounds.add_argument(
        "--decode-concurrency", type=_from(1), default=8, help="answers made at once, as memory allows (default: 8)"
    )
    bounds.add_argument(
        "--prompt-concurrency", type=_from(1), default=1, help="mlx_lm.server's; prompts are read one at a time here"
    )
    caches = parser.add_argument_group("prompts and KV caches")
    caches.add_argument("--prefill-step-size", type=_from(1), default=2048, help="prompt tokens at a time (2048)")
    caches.add_argument("--prompt-cache-size", type=_from(0), default=10, help="prompt caches kept (default: 10)")
    caches.add_argument("--prompt-cache-bytes", type=sized, help="bytes for them; never more than the plan has")
    add_store_arguments(caches)
    caches.add_argument("--kv-bits", type=int, help="quantise the KV cache; answers are then made one by one")
    caches.add_argument("--kv-group-size", type=int, default=64, help="(default: 64)")
    caches.add_argument("--quantized-kv-start", type=int, default=5000, help="(default: 5000)")
    draw = parser.add_argument_group("answers, where a request does not say")
    draw.add_argument("--max-tokens", type=_from(1), default=512, help="(default: 512)")
    draw.add_argument("--temp", type=_from(0, 10, float), default=0.0, help="temperature (default: 0, greedy)")
    draw.add_argument("--top-p", type=_from(0, 1, float), default=1.0, help="(default: 1)")
    draw.add_argument("--top-k", type=_from(0), default=0, help="(default: 0, all)")
    draw.add_argument("--min-p", type=_from(0, 1, float), default=0.0, help="(default: 0)")
    add_draft_arguments(draw)
    draw.add_argument("--chat-template", default="", help="chat template to use instead of the tokenizer's")
    draw.add_argument("--use-default-chat-template", action="store_true", help="where the tokenizer has none")
    draw.add_argument("--chat-template-args", type=_object, default={}, metavar="JSON", help="arguments for it")
    draw.add_argument("--audit", type=_from(1), metavar="N", help="compute every N-th token exactly too, and report")
    log = parser.add_argument_group("log")
    log.add_argument(
        "--log-level", default="INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), help="(default: INFO)"
    )
    log.add_argument("--log-format", default="text", choices=("text", "json"), help="(default: text)")
