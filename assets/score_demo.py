"""Scores the demo model on its held-out data: exact answers by skill, stories, and how evenly the experts are used.

Greedy decoding with mlx-lm in batches, every expert in memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from demo_data.story_check import StoryReport, check_story
from mlx_lm import batch_generate, load

BATCH = 20
Answerer = Callable[[list[str]], list[str]]


def read(path: Path) -> list[dict[str, str]]:
    """Reads a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def print_table(rows: list[dict[str, str]], answer: Answerer, show_wrong: bool) -> None:
    """Prints exact answers by skill."""
    table: dict[str, list[bool]] = {}
    for row, said in zip(rows, answer([row["prompt"] for row in rows]), strict=True):
        table.setdefault(row["skill"], []).append(said == row["answer"])
        if show_wrong and said != row["answer"]:
            print(f"  {row['skill']}: {row['prompt']!r} -> {said!r}, not {row['answer']!r}")
    print("| skill | exact | share |\n|---|---|---|")
    for skill, right in [*table.items(), ("all", [value for values in table.values() for value in values])]:
        print(f"| {skill} | {sum(right)}/{len(right)} | {100 * sum(right) / len(right):.1f}% |")


def print_stories(rows: list[dict[str, str]], answer: Answerer, show_wrong: bool) -> None:
    """Prints how many stories are well formed and true to their prompts."""
    reports: list[StoryReport] = []
    for row, text in zip(rows, answer([row["prompt"] for row in rows]), strict=True):
        report = check_story(text, row["prompt"], row)
        reports.append(report)
        if show_wrong and not (report.well_formed and report.steady and report.true_to_prompt):
            print(f"  {row['prompt']!r} -> {text!r} {report}")
    print("| stories | right | of |\n|---|---|---|")
    for name in ("well_formed", "steady", "true_to_prompt", "name", "animal", "thing", "place"):
        values = [value for value in (getattr(report, name) for report in reports) if value is not None]
        print(f"| {name.replace('_', ' ')} | {sum(values)} | {len(values)} |")


def expert_usage(model: Any, tokenizer: Any, text: str) -> np.ndarray:
    """Counts the tokens of each expert in each layer over a text, `[layers, experts]`."""
    seen: list[mx.array] = []
    block = type(model.layers[0].mlp)
    usual = block.__call__

    def watched(self: Any, x: mx.array) -> mx.array:
        seen.append(mx.argpartition(-self.gate(x), kth=self.top_k - 1, axis=-1)[..., : self.top_k])
        return usual(self, x)

    block.__call__ = watched
    try:
        counts = np.zeros((len(model.layers), model.args.num_experts), dtype=np.int64)
        for document in text.split("\n\n"):
            seen.clear()
            mx.eval(model(mx.array([tokenizer.encode(document.strip())])))
            for layer, chosen in enumerate(seen):
                counts[layer] += np.bincount(np.array(chosen).ravel(), minlength=counts.shape[1])
    finally:
        block.__call__ = usual
    return counts


def perplexity(model: Any, tokenizer: Any, text: str) -> tuple[float, int]:
    """Perplexity over documents, each from its own beginning, and the number of tokens that were scored."""
    loss, scored = 0.0, 0
    for document in text.split("\n\n"):
        ids = mx.array([tokenizer.encode(document.strip())])
        logits = model(ids[:, :-1])
        picked = mx.take_along_axis(logits, ids[:, 1:, None], axis=-1)[..., 0] - mx.logsumexp(logits, axis=-1)
        loss -= float(picked.sum().item())
        scored += ids.shape[1] - 1
    return float(np.exp(loss / scored)), scored


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "demo")
    parser.add_argument("--heldout", type=Path, default=Path(__file__).parent / "demo" / "heldout")
    parser.add_argument("--wrong", action="store_true", help="print every wrong answer")
    options = parser.parse_args()
    model, tokenizer, *_ = load(str(options.model))

    def answer(prompts: list[str]) -> list[str]:
        rows = [
            tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
            for text in prompts
        ]
        texts: list[str] = []
        for start in range(0, len(rows), BATCH):
            texts += batch_generate(model, tokenizer, rows[start : start + BATCH], max_tokens=220).texts
        return [text.strip() for text in texts]

    print_table(read(options.heldout / "prompts.jsonl"), answer, options.wrong)
    print_stories(read(options.heldout / "stories.jsonl"), answer, options.wrong)
    text = (options.heldout / "text.txt").read_text(encoding="utf-8").strip()
    usage = expert_usage(model, tokenizer, text)
    share = usage / usage.mean(axis=1, keepdims=True)
    print(f"experts: {(usage == 0).sum()} of {usage.size} never used")
    print(f"least used {share.min():.2f}, most used {share.max():.2f} of the mean")
    value, scored = perplexity(model, tokenizer, text)
    print(f"perplexity on the held-out text: {value:.4f} over {scored} tokens")


if __name__ == "__main__":
    main()
