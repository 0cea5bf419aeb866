"""Stops answers of a group at random tokens, in either of two ways, and compares every token with an answer unstopped.

python -m tests.machines.random_stops STOPS SEED [arguments of moe-mlx generate]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading

from moe_mlx.commands import generate
from moe_mlx.conversation.joining import join
from moe_mlx.conversation.session import Session
from tests.machines.many_answers import PROMPTS


def stopped(session: Session, prompt: list[int], after: int, *, left: bool) -> list[int]:
    """Returns the tokens of an answer that is stopped after some: by its event, or by leaving it."""
    stop, ids = threading.Event(), []
    pieces = session.answer(prompt, stop=stop)
    for piece in pieces:
        ids.append(piece.token)
        if len(ids) == after:
            if left:
                pieces.close()
                break
            stop.set()
    return ids


def main() -> None:
    """Stops, and writes how many tokens were wrong and how late the latest stop was."""
    stops, seed, *words = sys.argv[1:]
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    args = parser.parse_args(["--prompt", "-", "--no-history", "--parallel", "pipeline", *words])
    session = join(args, lambda line: print(line, file=sys.stderr))
    if session is None:
        return
    rng = random.Random(int(seed))
    prompts = [session.encode([{"role": "user", "content": text}]) for text in PROMPTS]
    whole = [[piece.token for piece in session.answer(prompt)] for prompt in prompts]
    wrong = late = 0
    for _ in range(int(stops)):
        number = rng.randrange(len(prompts))
        after = rng.randint(1, len(whole[number]))
        ids = stopped(session, prompts[number], after, left=rng.random() < 0.3)
        wrong += ids != whole[number][: len(ids)]
        late = max(late, len(ids) - after)
        for place, prompt in enumerate(prompts):  # what follows a stop is where swapped messages would show
            ids = stopped(session, prompt, 3, left=False)
            wrong += ids != whole[place][: len(ids)]
    print(json.dumps({"stops": int(stops), "wrong": wrong, "late": late, "machines": len(session.machines())}))
    session.close()


if __name__ == "__main__":
    main()
