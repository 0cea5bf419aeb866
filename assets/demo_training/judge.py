"""Per-skill accuracy of the network on the held-out prompts, without generating.

An answer counts if each of its tokens is the likeliest one given the right tokens before it, which is when greedy
decoding would give it.
"""

from __future__ import annotations

import torch
from demo_data import Turn, pieces
from tokenizers import Tokenizer

from .network import Network


@torch.no_grad()
def exact_by_skill(network: Network, tokenizer: Tokenizer, turns: list[Turn], batch: int = 50) -> dict[str, float]:
    """Returns the share of exact answers for each skill."""
    right: dict[str, list[bool]] = {}
    for start in range(0, len(turns), batch):
        part = turns[start : start + batch]
        rows = [[tokenizer.encode(piece.text).ids for piece in pieces([turn])] for turn in part]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        tokens = torch.tensor([prompt + answer + [0] * (width - len(prompt) - len(answer)) for prompt, answer in rows])
        best = network(tokens)[0].argmax(-1)
        for turn, row, (prompt, answer) in zip(part, best.tolist(), rows, strict=True):
            right.setdefault(turn.skill, []).append(row[len(prompt) - 1 : len(prompt) - 1 + len(answer)] == answer)
    return {skill: sum(values) / len(values) for skill, values in right.items()}
