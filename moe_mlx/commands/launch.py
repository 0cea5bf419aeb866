"""Starts a coding agent on a running `moe-mlx serve`: `moe-mlx launch claude -- ARGUMENTS`.

The server is asked for its model; the agent gets its address, key and model by environment and arguments, its own
settings stay as they are. `--print` shows them instead of starting anything.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import urllib.error
import urllib.request
from pathlib import Path

from moe_mlx.errors import MoeMlxError, UsageError

#: Arguments of the agent follow "--".
TAKES_REST = True
AGENTS = ("claude", "codex")
#: Every model that Claude Code may ask for.
CLAUDE_MODELS = (
    "ANTHROPIC_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)
KEY_VARIABLE = "MOE_MLX_API_KEY"
#: What agents that insist on a key get where the server wants none.
NO_KEY = "none-needed"
#: Below it an agent's own instructions do not fit.
SMALL_CONTEXT = 32_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx launch`."""
    parser.add_argument("agent", choices=AGENTS, help="the agent to start; it has to be installed")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server (default: %(default)s)")
    parser.add_argument("--api-key-file", metavar="FILE", help=f"file that holds its key; or set ${KEY_VARIABLE}")
    parser.add_argument("--print", dest="shown", action="store_true", help="print the environment and the command only")


def run(args: argparse.Namespace) -> int:
    """Starts the agent in this process's place."""
    rest = args.rest[1:] if args.rest[:1] == ["--"] else args.rest
    key = os.environ.get(KEY_VARIABLE)
    if args.api_key_file is not None:
        try:
            key = Path(args.api_key_file).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {args.api_key_file}: {error}") from error
    url = args.url.rstrip("/")
    model, context = served_model(url, key)
    if context < SMALL_CONTEXT:
        print(
            f"the server has room for {context:,} tokens: agents begin with more than 10,000; start it with "
            f"--max-kv-size {2 * SMALL_CONTEXT} where the model's context allows",
            file=sys.stderr,
        )
    environment, words = settings(args.agent, url, key or NO_KEY, model)
    command = [args.agent, *words, *rest]
    if args.shown:
        for name, value in environment.items():
            print(f"export {name}={shlex.quote(value)}")
        print(shlex.join(command))
        return 0
    program = shutil.which(args.agent)
    if program is None:
        raise UsageError(f"{args.agent} is not installed here: install it, or see what it would get with --print")
    os.execve(program, command, {**os.environ, **environment})


def settings(agent: str, url: str, key: str, model: str) -> tuple[dict[str, str], list[str]]:
    """Returns an agent's environment and the arguments that come before the user's own."""
    if agent == "claude":
        models = dict.fromkeys(CLAUDE_MODELS, model)
        environment = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_AUTH_TOKEN": key, **models}
        return environment | {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "API_TIMEOUT_MS": "3600000"}, []
    provider = "model_providers.moe_mlx"
    options = {
        "model": model,
        "model_provider": "moe_mlx",
        f"{provider}.name": "moe-mlx",
        f"{provider}.base_url": f"{url}/v1",
        f"{provider}.wire_api": "responses",
        f"{provider}.env_key": KEY_VARIABLE,
    }
    return {KEY_VARIABLE: key}, [word for name, value in options.items() for word in ("-c", f'{name}="{value}"')]


def served_model(url: str, key: str | None) -> tuple[str, int]:
    """Returns the name of what a server serves, and the tokens it has room for.

    Raises:
        UsageError: no address.
        MoeMlxError: no server there, or it does not take the key.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--url {url}: give http://HOST:PORT")
    request = urllib.request.Request(f"{url}/v1/models", headers={"x-api-key": key} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            row = json.load(response)["data"][0]
            return str(row["id"]), int(row.get("context_length", 0))
    except urllib.error.HTTPError as error:
        hint = f"give its key: --api-key-file, or ${KEY_VARIABLE}" if error.code == 401 else "is it moe-mlx serve?"
        raise MoeMlxError(f"the server at {url} answers {error.code}: {hint}") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise MoeMlxError(f"no server answers at {url} ({error}): start `moe-mlx serve`, or give its --url") from error
