"""Serves a model over HTTP (OpenAI's chat and completions): mlx_lm.server itself, with the expert cache behind it.

Arguments that are not ours go to mlx_lm.server as they are: --host, --port, --draft-model, --max-tokens and so on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from moe_mlx.commands.model_arguments import add_history_arguments, add_model_arguments, load_model

if TYPE_CHECKING:
    from mlx import nn

#: What the parser does not know is handed to `run` as `args.rest`.
TAKES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx serve`."""
    parser.allow_abbrev = False  # --prompt-cache-size is not ours, nor is what it begins with
    parser.epilog = "mlx_lm.server's arguments may follow anywhere; `mlx_lm.server --help` lists them."
    add_model_arguments(parser)
    add_history_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs mlx-lm's server over our loader."""
    from moe_mlx.conversation.serving import serve

    loaded: list[nn.Module] = []

    def load(
        path: str, adapter_path: str | None = None, tokenizer_config: dict[str, Any] | None = None, **options: Any
    ) -> tuple[Any, ...]:
        from moe_mlx.loading.attachment import runtime_of

        while loaded:  # a client asked for another model: one expert cache at a time
            runtime_of(loaded.pop()).close()
        wanted = argparse.Namespace(**{**vars(args), "model": path, "adapter_path": adapter_path})
        model, tokenizer = load_model(wanted)
        if (tokenizer_config or {}).get("chat_template"):
            tokenizer.chat_template = tokenizer_config["chat_template"]  # type: ignore[index]
        loaded.append(model)
        return model, tokenizer, runtime_of(model).config

    words = [word for word in args.rest if word != "--"]
    words += ["--model", args.model]
    if args.adapter_path is not None:
        words += ["--adapter-path", args.adapter_path]
    if args.trust_remote_code:
        words += ["--trust-remote-code"]
    sys.argv = ["mlx_lm.server", *words]

    def end(number: int, frame: FrameType | None) -> None:
        keep_history(loaded)
        signal.signal(number, signal.SIG_DFL)  # mlx-lm's threads would outlive an exception
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
    try:
        serve(load)
    finally:
        keep_history(loaded)
    return 0


def keep_history(models: list[nn.Module]) -> None:
    """Writes what the models used; from any thread, since it touches no array of MLX."""
    from moe_mlx.loading.attachment import runtime_of

    for model in models:
        if (history := runtime_of(model).history) is not None:
            history.save(at_once=True)
