"""The `moe-mlx` command: finds the verb, imports only that verb, turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import FrameType

from moe_mlx.commands.defaults import apply_defaults
from moe_mlx.commands.parser import CommandParser
from moe_mlx.commands.verbs import VERBS
from moe_mlx.errors import MoeMlxError, ThreadsRefusedError, one_line
from moe_mlx.machines.launched import refuse_alone
from moe_mlx.system.terminal import on_terminal, prepare_streams
from moe_mlx.version import __version__

#: `moe-mlx help VERB` is `moe-mlx VERB --help`.
HELP = "help"
#: Options that need no verb.
OWN = ("-h", "--help", "-V", "--version")
INTERRUPTED, TERMINATED = 130, 143
#: Set, it lets an error that nobody expected through with its traceback.
TRACEBACK = "MOE_MLX_TRACEBACK"


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {line}" for verb, line in VERBS.items())
    parser = CommandParser(
        prog="moe-mlx",
        description="Run mixture-of-experts models larger than memory, on MLX.",
        epilog=f"verbs:\n{verbs}\n\n`moe-mlx help VERB` explains one; moe-mlx alone lists your models.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", "-V", action="version", version=f"moe-mlx {__version__}")
    # Optional, so that an unknown option is complained about before a missing verb is.
    parser.add_argument("verb", metavar="VERB", nargs="?", choices=[*VERBS, HELP], help="what to do; see below")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: Arguments after the program's name; `sys.argv[1:]` by default.

    Returns:
        0 ok, 1 failure, 2 usage, 3 store missing or corrupt, 4 does not fit, 130 interrupted, 143 terminated.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prepare_streams()
    parser = _parser()
    if not words:
        if not on_terminal():
            parser.print_help(sys.stderr)
            return 2
        words = ["chat", "--home"]
    if words[0] == HELP:
        if len(words) == 1:
            parser.print_help()
            return 0
        words = [parser.parse_args(words[1:2]).verb, "--help"]
    if words[0].startswith("-") and not get_close_matches(words[0], OWN, cutoff=0.7):
        parser.error(f"{one_line(words[0])} needs a verb before it, such as moe-mlx chat {one_line(' '.join(words))}")
    verb = parser.parse_args(words[:1]).verb
    try:
        _end_in_order_when_told()
        command = import_module(f"moe_mlx.commands.{verb}")
        verb_parser = CommandParser(prog=f"moe-mlx {verb}", description=command.__doc__)
        command.add_arguments(verb_parser)
        apply_defaults(verb_parser, verb)
        if getattr(command, "TAKES_REST", False):
            args, rest = verb_parser.parse_known_args(words[1:])
            args.rest = rest
        else:
            args = verb_parser.parse_args(words[1:])
        refuse_alone(verb, getattr(args, "parallel", None))
        return int(command.run(args) or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; keep the interpreter's own flush at exit quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(TRACEBACK) and not isinstance(error, MoeMlxError):
            raise
        return complain(verb, error)


def _end_in_order_when_told() -> None:
    """Makes SIGTERM end the process as Ctrl-C does, so that what is open is closed; verbs may do otherwise."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:

        def end(number: int, frame: FrameType | None) -> None:
            signal.signal(number, signal.SIG_IGN)
            sys.exit(TERMINATED)

        signal.signal(signal.SIGTERM, end)


def complain(verb: str, error: Exception) -> int:
    """Says on standard error what went wrong and returns its exit code."""
    from moe_mlx.system.threads import is_refusal

    code = 1
    if isinstance(error, MoeMlxError):
        said, code = str(error), error.exit_code
    elif is_refusal(error):
        said = str(ThreadsRefusedError())
    elif isinstance(error, OSError):  # a file that the system refuses, whoever named it
        said = f"{one_line(error.filename or 'input or output')}: {error.strerror or error}."
    else:  # a fault of ours, or a model that builds and then cannot run
        said = (
            f"unexpected {type(error).__name__}: {one_line(' '.join(str(error).split())[:300])}. {TRACEBACK}=1 shows "
            "where; please report it unless the model's config.json was changed."
        )
    print(f"moe-mlx {verb}: {said}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
