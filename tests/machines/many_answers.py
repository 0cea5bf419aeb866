"""Many answers of one model, alone or as a rank of a group: tokens, logits and counts, as JSON by rank 0.

python -m tests.machines.many_answers [arguments of moe-mlx generate]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from typing import Any

import mlx.core as mx

from moe_mlx.commands import generate
from moe_mlx.conversation.joining import join
from moe_mlx.conversation.leading import residency_of
from moe_mlx.conversation.opening import open_session
from moe_mlx.conversation.session import Session

PROMPTS = ("I want a story about a dog whose name is Aisha who lives in the museum.", "what is the answer to 84 + 88?")
#: decode, routing; the first of each prompt begins empty.
SETTINGS = (("native", "exact"), ("readback", "cache-prior"), ("native", "cache-prior"), ("readback", "exact"))


def answers(session: Session) -> list[dict[str, Any]]:
    """Answers every prompt under every setting, each setting from empty."""
    found = []
    for way, routing in SETTINGS:
        if way == "native" and session.runtime.layers.native is None:
            continue
        session.runtime.use_decode(way)
        session.runtime.set_routing(routing=routing)
        session.runtime.reset()
        session.forget()
        found += [{"way": way, "routing": routing, **one(session, prompt)} for prompt in PROMPTS]
    return found


def one(session: Session, prompt: str) -> dict[str, Any]:
    """Answers one prompt; logits as a digest of their bytes."""
    seen: list[mx.array] = []

    def look(_: mx.array, logits: mx.array) -> mx.array:
        seen.append(logits)
        return logits

    pieces = session.answer(session.encode([{"role": "user", "content": prompt}]), logits_processors=[look])
    ids = [piece.token for piece in pieces]
    answer = session.last
    assert answer is not None
    running = hashlib.sha256()
    for logits in seen[: len(ids)]:
        running.update(bytes(memoryview(logits.astype(mx.float32)).cast("B")))
    machines = session.machines()
    counts = [row["decode"] for row in machines] or [answer.decode.as_dict()]
    return {
        "tokens": ids,
        "logits": running.hexdigest(),
        "finish": answer.finish_reason,
        "reused": answer.reused_tokens,
        **{name: sum(row[name] for row in counts) for name in ("hits", "misses", "swapped", "bytes_read")},
        "residency": residency_of(session.runtime),
        "machines": machines,
    }


def main() -> None:
    """Answers, and writes what came of it."""
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    args = parser.parse_args(["--prompt", "-", "--no-history", *sys.argv[1:]])
    session = join(args, lambda line: print(line, file=sys.stderr)) if args.parallel else open_session(args)
    if session is None:
        return
    print(json.dumps(answers(session)))
    session.close()


if __name__ == "__main__":
    main()
