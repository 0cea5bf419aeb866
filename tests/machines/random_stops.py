"""Stops answers of a group at random, in any of four ways, and compares every token with an answer unstopped.

python -m tests.machines.random_stops STOPS SEED --parallel pipeline|tensor [arguments of moe-mlx generate]
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

EVENT, LEFT, IN_PROMPT, AT_ONCE = "event", "left", "in the prompt", "at once"


def stopped(session: Session, prompt: list[int], after: int, *, left: bool = False) -> list[int]:
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


def stopped_in_prompt(session: Session, prompt: list[int], chunk: int) -> tuple[list[int], bool]:
    """Stops an answer at a chunk of its prompt; returns its tokens, and whether it went no further than that chunk."""
    stop, seen = threading.Event(), []
    session.forget()

    def on_prefill(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == chunk:
            stop.set()

    ids = [piece.token for piece in session.answer(prompt, stop=stop, on_prefill=on_prefill)]
    done, total = seen[-1]
    # What is read in the end is read: the answer then stops at its first tokens.
    return ids, session.held_tokens == done and not ids if done < total else len(ids) <= 3


def main() -> None:
    """Stops, and writes how many tokens were wrong and how late the latest stop was."""
    stops, seed, *words = sys.argv[1:]
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    args = parser.parse_args(["--prompt", "-", "--no-history", "--prefill-step-size", "4", *words])
    session = join(args, lambda line: print(line, file=sys.stderr))
    if session is None:
        return
    rng = random.Random(int(seed))
    prompts = [session.encode([{"role": "user", "content": text}]) for text in PROMPTS]
    whole = [[piece.token for piece in session.answer(prompt)] for prompt in prompts]
    wrong = late = 0
    ways = dict.fromkeys((EVENT, LEFT, IN_PROMPT, AT_ONCE), 0)
    for _ in range(int(stops)):
        number, way = rng.randrange(len(prompts)), rng.choice([EVENT, EVENT, LEFT, IN_PROMPT, IN_PROMPT, AT_ONCE])
        ways[way] += 1
        if way == IN_PROMPT:
            chunk = rng.randint(1, len(prompts[number]) // 4)
            ids, there = stopped_in_prompt(session, prompts[number], chunk)
            wrong += not there
        else:
            after = 1 if way == AT_ONCE else rng.randint(1, len(whole[number]))
            ids = stopped(session, prompts[number], after, left=way == LEFT)
            late = max(late, len(ids) - after)
        wrong += ids != whole[number][: len(ids)]
        for place, prompt in enumerate(prompts):  # what follows a stop is where swapped messages would show
            ids = stopped(session, prompt, 3)
            wrong += ids != whole[place][: len(ids)]
        print(f"{way}, {wrong} wrong", file=sys.stderr, flush=True)
    print(json.dumps({"stops": ways, "wrong": wrong, "late": late, "machines": len(session.machines())}))
    session.close()


if __name__ == "__main__":
    main()
