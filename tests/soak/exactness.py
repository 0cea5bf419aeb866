"""Random caps, prompts and families: exact routing equals mlx-lm, bit for bit.

`python -m tests.soak.exactness --cases 1000` prints how many cases it ran; the test runs a sample.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx_lm
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from tests.checkpoints import AFFINE4, tiny_checkpoint

FAMILIES = ("qwen3_moe", "mixtral", "deepseek_v3", "gpt_oss", "olmoe", "phixtral", "granitemoe", "glm4_moe")
PROMPTS = (1, 1, 2, 3, 7, 15, 16, 17, 30, 63, 64, 65, 120, 300)
CASES_PER_MODEL = 25


def run_model(folder: Path, family: str, cases: int, chance: random.Random, decode: str) -> int:
    """Runs `cases` random cases on one tiny model and returns how many differed."""
    quantization = chance.choice([None, AFFINE4])
    checkpoint = tiny_checkpoint(family, folder, quantization=quantization, seed=chance.randrange(1000))
    reference, _ = mlx_lm.load(str(checkpoint))
    model, _ = moe_mlx.load(checkpoint, expert_cache="100%", routing="exact", decode=decode, say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    floor = max(layer.top_k / layer.experts for layer in runtime.source.layers)
    wrong = 0
    for case in range(cases):
        runtime.resize(f"{100 * chance.uniform(floor, 1.0):.3f}%")
        ours, theirs = make_prompt_cache(model), make_prompt_cache(reference)
        calls = [chance.choice(PROMPTS)] + [chance.choice((1, 1, 1, 1, 5)) for _ in range(chance.randrange(12))]
        for count in calls:
            tokens = mx.array([[chance.randrange(100) for _ in range(count)]])
            left, right = model(tokens, cache=ours), reference(tokens, cache=theirs)
            if not mx.array_equal(left, right):
                wrong += 1
                print(f"{family} case {case}: slots {runtime.slots_per_layer}, calls {calls}", file=sys.stderr)
                break
        for cache in runtime.layers:
            cache.table.check()
    runtime.close()
    return wrong


def run(cases: int, seed: int = 0, decode: str = "auto", families: Sequence[str] = FAMILIES) -> tuple[int, int]:
    """Runs `cases` random cases over the families; returns how many ran and how many differed."""
    chance = random.Random(seed)
    done = wrong = 0
    while done < cases:
        family = families[(done // CASES_PER_MODEL) % len(families)]
        batch = min(CASES_PER_MODEL, cases - done)
        with tempfile.TemporaryDirectory() as folder:
            wrong += run_model(Path(folder), family, batch, chance, decode)
        done += batch
        print(f"{done} cases, {wrong} wrong", file=sys.stderr)
    return done, wrong


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decode", choices=("auto", "native", "readback"), default="auto")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    done, wrong = run(args.cases, args.seed, args.decode)
    print(f"{done} random cases equal mlx-lm but for {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
