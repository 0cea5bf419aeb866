"""Counts what drafts cost and save a model under a cap: bytes of experts a token, with several draft models.

For the demo these are the demo itself, which is always right, and the demo without its last layer, which is not always;
for a model that has a prediction head (train_head.py) it is that. Counts only, so no other load on the machine changes
them. Every row has to have the same tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from demo_training.shallow import shallow_demo

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.drafting.gate import Gate
from moe_mlx.drafting.opening import DraftWish
from moe_mlx.store.demo import demo_path

ANIMALS = ("fox", "bear", "cat", "bird", "mouse", "dog", "rabbit", "horse", "frog", "owl")


def told(
    name: str, cap: str, draft: Path | None, count: int, gate: Gate, stories: int
) -> tuple[list[tuple[int, ...]], dict[str, float]]:
    """Has a model tell so many stories; returns the tokens of each, and counts."""
    model, tokenizer = moe_mlx.load(name, expert_cache=cap, routing="exact", decode="readback")
    drafting = None
    if draft is not None:
        drafting = DraftWish(draft.name, draft, count).open(model, tokenizer)
        drafting.gate = gate
    session = Session(model, tokenizer, Sampling(max_tokens=100), drafting=drafting)
    answers, nbytes, steps = [], 0, 0
    for animal in ANIMALS[:stories]:
        session.forget()
        for _ in session.answer(session.encode([{"role": "user", "content": f"Tell me a story about a {animal}."}])):
            pass
        assert session.last is not None
        answers.append(session.last.tokens)
        nbytes += session.last.decode.bytes_read
        steps += session.last.decode.steps
    session.close()
    tokens = sum(map(len, answers))
    counts: dict[str, float] = {"tokens": tokens, "steps": steps, "bytes a token": nbytes / tokens}
    if drafting is not None:
        made = drafting.counts
        counts |= {"drafted": made.drafted, "accepted": made.accepted, "rounds": made.rounds, "trials": gate.trials}
    return answers, counts


def main() -> None:
    """Prints a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expert-cache", default="50%", help="the cap (default: 50%%)")
    parser.add_argument("--model", default="demo", help="the model that decides (default: demo)")
    parser.add_argument("--head", type=Path, help="its prediction head, in place of draft models for the demo")
    parser.add_argument("--stories", type=int, default=len(ANIMALS), help="of 100 tokens at most (default: all 10)")
    options = parser.parse_args()
    if options.head is None and options.model != "demo":
        parser.error("--model needs its --head")
    with tempfile.TemporaryDirectory() as folder:
        if options.head is not None:
            drafts = {"head": options.head}
        else:
            drafts = {"demo": demo_path(), "shallow": shallow_demo(Path(folder) / "shallow")}
        plain, counts = told(options.model, options.expert_cache, None, 0, Gate(), options.stories)
        print(json.dumps({"draft": None, **counts}), flush=True)
        for name, path in drafts.items():
            for count, gate in ((1, Gate.held_open()), (3, Gate.held_open()), (1, Gate()), (3, Gate())):
                answers, counts = told(options.model, options.expert_cache, path, count, gate, options.stories)
                assert answers == plain, "an answer with drafts is not the one without"
                held = "at work" if gate.trials else "held open"
                print(json.dumps({"draft": name, "at a time": count, "gate": held, **counts}), flush=True)


if __name__ == "__main__":
    main()
