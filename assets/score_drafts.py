"""Counts what drafts cost and save the demo model under a cap: bytes of experts a token, with two draft models.

One is the demo itself, which is always right; the other is the demo without its last layer, which is not always.
Counts only, so no other load on the machine changes them. Every row has to have the same tokens.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import mlx_lm
from demo_training.shallow import shallow_demo

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session
from moe_mlx.drafting.drafter import ModelDrafter
from moe_mlx.drafting.drafting import Drafting
from moe_mlx.drafting.gate import Gate
from moe_mlx.store.demo import demo_path

ANIMALS = ("fox", "bear", "cat", "bird", "mouse", "dog", "rabbit", "horse", "frog", "owl")


def told(cap: str, draft: Path | None, count: int, gate: Gate) -> tuple[list[tuple[int, ...]], dict[str, float]]:
    """Has the demo tell a story of each animal; returns the tokens of each, and counts."""
    model, tokenizer = moe_mlx.load("demo", expert_cache=cap, routing="exact", decode="readback")
    runtime = moe_mlx.runtime_of(model)
    drafting = None
    if draft is not None:
        drafting = Drafting(runtime, ModelDrafter(mlx_lm.load(str(draft))[0]), count, gate=gate)
    session = Session(model, tokenizer, Sampling(max_tokens=100), drafting=drafting)
    answers, nbytes = [], 0
    for animal in ANIMALS:
        session.forget()
        for _ in session.answer(session.encode([{"role": "user", "content": f"Tell me a story about a {animal}."}])):
            pass
        assert session.last is not None
        answers.append(session.last.tokens)
        nbytes += session.last.decode.bytes_read
    session.close()
    tokens = sum(map(len, answers))
    counts: dict[str, float] = {"tokens": tokens, "bytes a token": nbytes / tokens}
    if drafting is not None:
        made = drafting.counts
        counts |= {"drafted": made.drafted, "accepted": made.accepted, "rounds": made.rounds, "trials": gate.trials}
    return answers, counts


def main() -> None:
    """Prints a JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expert-cache", default="50%", help="the cap (default: 50%%)")
    cap = parser.parse_args().expert_cache
    with tempfile.TemporaryDirectory() as folder:
        models = {"demo": demo_path(), "shallow": shallow_demo(Path(folder) / "shallow")}
        plain, counts = told(cap, None, 0, Gate())
        print(json.dumps({"draft": None, **counts}), flush=True)
        for name, path in models.items():
            for count, gate in ((1, Gate.held_open()), (3, Gate.held_open()), (1, Gate()), (3, Gate())):
                answers, counts = told(cap, path, count, gate)
                assert answers == plain, "an answer with drafts is not the one without"
                held = "at work" if gate.trials else "held open"
                print(json.dumps({"draft": name, "at a time": count, "gate": held, **counts}), flush=True)


if __name__ == "__main__":
    main()
