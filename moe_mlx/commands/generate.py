"""Answers one prompt. Text goes to standard output as it is made, a summary to standard error."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from moe_mlx.commands.draft_arguments import add_draft_arguments
from moe_mlx.commands.model_arguments import (
    add_history_arguments,
    add_machines_arguments,
    add_model_arguments,
    add_sampling_arguments,
)
from moe_mlx.commands.price_arguments import add_price_arguments
from moe_mlx.conversation.opening import open_session
from moe_mlx.errors import UsageError
from moe_mlx.system.terminal import for_reader, to_stderr

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Answer, Session
    from moe_mlx.store.page_cache import PageCacheUse


#: Exit code of an answer that Ctrl-C stopped on every machine.
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx generate`."""
    parser.add_argument("--prompt", "-p", required=True, help="what to ask; - reads standard input")
    parser.add_argument(
        "--image",
        metavar="FILE",
        action="append",
        default=[],
        dest="images",
        help="a picture to ask about (png, jpeg, webp, gif, bmp); may be given several times (extra `vlm`)",
    )
    parser.add_argument("--prefill-response", help="the answer begins with this")
    parser.add_argument(
        "--compare",
        metavar="ROUTING",
        help="answer under --routing and under this one ('lambda 0.2', 'exact'), side by side, the first token that "
        "differs marked",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of text")
    parser.add_argument("--quiet", "-q", action="store_true", help="no summary")
    add_model_arguments(parser)
    add_price_arguments(parser)
    add_history_arguments(parser)
    add_sampling_arguments(parser, max_tokens=100)
    add_draft_arguments(parser.add_argument_group("drafts"))
    add_machines_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Loads, answers, sums up."""
    args.pictures = bool(args.images)
    if args.images:
        from moe_mlx.vlm.pictures import read_picture

        if args.parallel is not None:
            raise UsageError("--image: a model that several machines run is shown no pictures")
        args.images = [read_picture(path) for path in args.images]
    if args.parallel is not None:
        return _over_machines(args)
    return _answer(args, open_session(args))


def _over_machines(args: argparse.Namespace) -> int:
    from moe_mlx.conversation.joining import join

    session = join(args, to_stderr)
    if session is None:
        return 0
    stop = threading.Event()

    def interrupted(number: int, frame: FrameType | None) -> None:
        if stop.is_set():  # told twice: whatever the others are at
            raise KeyboardInterrupt
        stop.set()

    # Raised in the midst of a step it would leave the others in theirs: they stop together, two tokens later.
    signal.signal(signal.SIGINT, interrupted)
    code = _answer(args, session, stop)
    return INTERRUPTED if stop.is_set() else code


def _answer(args: argparse.Namespace, session: Session, stop: threading.Event | None = None) -> int:
    from moe_mlx.conversation.context import context_watch

    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    content: Any = prompt
    if args.images:
        from moe_mlx.vlm.pictures import with_pictures

        content = with_pictures(prompt, args.images)
    messages = [{"role": "system", "content": args.system_prompt}] if args.system_prompt else []
    messages.append({"role": "user", "content": content})
    tokens = session.encode(messages, prefill_response=args.prefill_response)
    watch, shown = context_watch(session), for_reader()
    for line in watch.remarks(len(tokens)):
        print(f"[{line}]", file=sys.stderr)
    if args.compare is not None:
        return _compare(args, session, tokens)
    for piece in session.answer(tokens, stop=stop):
        if not args.json:
            print(shown(piece.text), end="", flush=True)
    answer = session.last
    assert answer is not None
    if args.json:
        json.dump(summary(session, answer), sys.stdout)
    print(flush=True)
    if not args.quiet and not args.json:
        print(describe(session, answer), file=sys.stderr)
        if ranks := session.machines():
            from moe_mlx.machines.rank_lines import describe_ranks

            print("\n".join(f"[{line}]" for line in describe_ranks(ranks)), file=sys.stderr)
    for line in watch.remarks(len(tokens) + len(answer.tokens)):
        print(f"[{line}]", file=sys.stderr)
    session.close()
    return 0


def _compare(args: argparse.Namespace, session: Session, tokens: list[int]) -> int:
    from moe_mlx.conversation.comparison import as_dict, compare, side_by_side
    from moe_mlx.routing.spelled import spelled

    routing = session.runtime.routing
    sides = compare(session, tokens, (routing, spelled(args.compare, routing)))
    if args.json:
        print(json.dumps(as_dict(sides)))
    else:
        print(side_by_side(sides, shutil.get_terminal_size((120, 40)).columns, for_reader()))
    if not args.quiet and not args.json:
        for side in sides:
            print(f"[{side.answer.receipt.describe()}]", file=sys.stderr)
    session.runtime.close()
    return 0


def summary(session: Session, answer: Answer) -> dict[str, Any]:
    """Returns an answer and its counts under the names that scripts read; decode's where nothing else is said."""
    from dataclasses import asdict

    import mlx.core as mx

    from moe_mlx.store.given import mean_bits
    from moe_mlx.store.page_cache import page_cache_use

    runtime = session.runtime
    return {
        **answer.decode.as_dict(),
        "text": answer.text,
        "tokens": list(answer.tokens),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "generation_tokens": len(answer.tokens),
        "prompt_tps": answer.prompt_tps,
        "generation_tps": answer.generation_tps,
        "peak_memory_bytes": mx.get_peak_memory(),
        "expert_cache_bytes": runtime.expert_cache_bytes,
        "slots_per_layer": runtime.slots_per_layer,
        "low_slots_per_layer": runtime.low_slots_per_layer,
        "reads": asdict(answer.reads),
        "io_reason": runtime.io_reason,
        "page_cache": {
            "experts": _held(page_cache_use(runtime.source)),
            "twice": _held(page_cache_use(runtime.source, runtime.resident_experts())),
        },
        "discarded_steps": answer.discarded_steps,
        "routing": runtime.routing.routing,
        "route_lambda": runtime.routing.route_lambda,
        "light": runtime.routing.light,
        "light_beyond": runtime.routing.light_beyond,
        "bits_per_weight": mean_bits(runtime.source),
        "profile": runtime.profile or None,
        "pinned": runtime.pinned,
        "warmed": runtime.warmed,
        "warmed_bytes": runtime.warmed_bytes,
        "receipt": answer.receipt.as_dict(),
        "prefill": answer.prefill.as_dict(),
        "machines": session.machines(),
    }


def _held(use: PageCacheUse | None) -> dict[str, Any] | None:
    return None if use is None else {"bytes": use.nbytes, "of_bytes": use.of_nbytes, "estimate": use.estimate}


def describe(session: Session, answer: Answer) -> str:
    """Returns the summary in one line, for people."""
    from moe_mlx.system.sizes import show_bytes

    decode, runtime = answer.decode, session.runtime
    parts = [
        f"{len(answer.tokens)} tokens at {answer.generation_tps:.1f}/s",
        f"prompt {answer.prompt_tokens}" + (f" ({answer.reused_tokens} kept)" if answer.reused_tokens else ""),
        f"hit {decode.hit_rate:.0%}",
        f"read {show_bytes(decode.disk_bytes + answer.prefill.bytes_read)}",
        f"swapped {decode.swapped_share:.1%} (weight {decode.weight_moved:.2f})",
        f"experts {show_bytes(runtime.expert_cache_bytes)} ({runtime.resident_share:.0%})",
        runtime.in_force,
    ]
    if decode.late:
        parts.append(f"late {decode.late_share:.1%} (weight {decode.late_weight:.2f})")
    if decode.coarse:
        parts.append(f"coarse {decode.coarse_share:.1%} (weight {decode.coarse_weight:.2f})")
    if runtime.io_way != "cached":
        parts.append(f"io {runtime.io_way}")
    if answer.receipt.warmed:
        parts.append(f"warmed {answer.receipt.warmed}")
    if runtime.profile:
        parts.append(f"profile {runtime.profile}")
    if runtime.pinned:
        parts.append(f"pinned {runtime.pinned}")
    if answer.receipt.drafts is not None:
        parts.append(answer.receipt.drafts.describe())
    if answer.receipt.audit is not None:
        parts.append(answer.receipt.audit.describe())
    return "[" + ", ".join(parts) + "]"
