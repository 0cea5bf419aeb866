"""Trains the demo model on generated text, on a CPU, within a given number of minutes.

The learning rate follows the share of the time that has passed: constant at first, then linear to zero. A checkpoint is
written every few minutes and on SIGTERM; the same command goes on from it.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_data import heldout_prompts
from demo_data.dialogues import favour
from demo_training.batches import batches
from demo_training.helper import Helper, gradient
from demo_training.judge import exact_by_skill
from demo_training.network import Network, Shape
from demo_training.vocabulary import load_or_train

WARM_UP = 100


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: tokenizer, checkpoint, log")
    parser.add_argument("--minutes", type=float, default=80, help="time to train")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--constant", type=float, default=0.25, help="share of the time before the rate starts to fall")
    parser.add_argument("--vocabulary", type=int, default=1536)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--helpers", type=int, default=1, help="further processes that compute gradients")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 in the matrix products")
    parser.add_argument("--restart-clock", action="store_true", help="continue from the checkpoint with a new schedule")
    parser.add_argument(
        "--favour", nargs="+", default=[], metavar="TURN=FACTOR", help="more of some turns, such as lists.sort_list=2"
    )
    return parser.parse_args()


def rate_now(step: int, share: float, highest: float, constant: float) -> float:
    """The learning rate after a share of the time."""
    falling = 1.0 if share < constant else max(0.0, (1 - share) / (1 - constant))
    return highest * max(falling, 0.003) * min(1.0, (step + 1) / WARM_UP)


def save(path: Path, network: Network, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Writes a checkpoint beside the old one, then takes its place; and the weights alone, for export_demo.py."""
    beside = path.with_suffix(".new")
    torch.save(
        {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "state": state,
            "shape": network.shape.as_dict(),
        },
        beside,
    )
    beside.replace(path)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    np.savez(path.with_name("weights.npz"), **arrays)
    path.with_name("shape.json").write_text(json.dumps(network.shape.as_dict()), encoding="utf-8")


def main() -> None:
    """Trains until the time is up."""
    options = arguments()
    favour({name: float(factor) for name, _, factor in (word.partition("=") for word in options.favour)})
    options.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    tokenizer = load_or_train(options.run / "tokenizer.json", options.vocabulary)
    network = Network(Shape(vocab_size=tokenizer.get_vocab_size()))
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "before": 0.0}
    path = options.run / "checkpoint.pt"
    if path.exists():
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        state = saved["state"]
        if options.restart_clock:
            state["before"] += state["seconds"]
            state["seconds"] = 0.0
    judged = heldout_prompts()
    log = (options.run / "log.jsonl").open("a", encoding="utf-8")
    start = time.monotonic() - state["seconds"]
    next_save, totals, usage = state["seconds"] + 60 * options.save_every, torch.zeros(2), torch.zeros(1)
    network.share_memory()
    seeds = range(1, options.helpers + 1)
    helpers = [
        Helper(network, tokenizer, options.seed * 100_003 + state["step"] + 50_021 * seed, not options.float32)
        for seed in seeds
    ]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    for batch in batches(tokenizer, options.seed * 100_003 + state["step"]):
        state["seconds"] = time.monotonic() - start
        share = state["seconds"] / 60 / options.minutes
        rate = rate_now(state["step"], share, options.rate, options.constant)
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, balance, total, counts = gradient(network, batch, not options.float32)
        for helper in helpers:
            total, more = helper.join_in(network, total)
            state["tokens"] += more
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        state["step"] += 1
        state["tokens"] += batch[0].shape[0] * (batch[0].shape[1] - 1)
        totals += torch.tensor([loss, balance])
        usage = usage + counts
        done = share >= 1 or bool(stopped)
        if state["step"] % 50 == 0 or done:
            mean = usage.float().mean(1, keepdim=True)
            record = {
                **{key: round(value, 1) for key, value in state.items()},
                "loss": round(totals[0].item() / 50, 4),
                "balance": round(totals[1].item() / 50, 4),
            }
            record |= {
                "rate": round(rate, 6),
                "least_used": round((usage / mean).min().item(), 3),
                "most_used": round((usage / mean).max().item(), 2),
            }
            print(json.dumps(record), file=log, flush=True)
            totals, usage = torch.zeros(2), torch.zeros(1)
        if state["seconds"] >= next_save or done:
            save(path, network, optimiser, state)
            next_save += 60 * options.save_every
            table = exact_by_skill(network, tokenizer, judged)
            print(
                json.dumps(
                    {"step": state["step"], "exact": {skill: round(value, 3) for skill, value in table.items()}}
                ),
                file=log,
                flush=True,
            )
        if done:
            break
    for helper in helpers:
        helper.stop()


if __name__ == "__main__":
    main()
