"""Trains a small glm_moe_dsa with a prediction head on the demo's text, on a CPU.

The folder it writes is a checkpoint as such models are published, the head among its layers:

    python -m mlx_vlm.split_mtp --model RUN --output HEAD
    moe-mlx convert --model RUN --mlx-path STORE
    moe-mlx generate --model STORE --draft-model HEAD -p "Tell me a story about a fox."

MLX's wheel for Linux multiplies by the reference BLAS, which is slow; another one can be put before it, such as
Debian's libopenblas0: `LD_PRELOAD=libopenblas.so.0 OPENBLAS_NUM_THREADS=1`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mlx.core as mx
from demo_data import training_documents
from demo_data.dialogues import favour
from demo_training.rows import pack
from head_training.network import ModelWithHead, config_of
from head_training.saving import save_published
from mlx import nn, optimizers
from tokenizers import Tokenizer

from moe_mlx.store.demo import demo_path

WARM_UP = 50


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=500, help="(default: 500)")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate (default: 0.003)")
    parser.add_argument("--rows", type=int, default=4, help="rows of a batch (default: 4)")
    parser.add_argument("--length", type=int, default=160, help="tokens of a row (default: 160)")
    parser.add_argument("--stories", type=float, default=20, help="how many times as many stories as the demo saw")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def rate_now(step: int, steps: int, highest: float) -> float:
    """The learning rate of a step: rising, constant for a third of them, then linear to zero."""
    return highest * min(1.0, (step + 1) / WARM_UP, 1.5 * (1 - step / steps))


def main() -> None:
    """Trains; prints a JSON object every 50 steps, means over them, and saves."""
    options = arguments()
    favour({"stories.make": options.stories})
    mx.set_default_device(mx.cpu)
    mx.random.seed(options.seed)
    tokenizer = Tokenizer.from_file(str(demo_path() / "tokenizer.json"))
    ends = {name: tokenizer.token_to_id(f"<|{name}|>") for name in ("end", "pad")}
    config = config_of(tokenizer.get_vocab_size(), **ends)
    network = ModelWithHead(config)
    optimizer = optimizers.Adam(learning_rate=options.rate, betas=[0.9, 0.98], bias_correction=True)
    gradient = nn.value_and_grad(network, network.losses)
    documents = training_documents(options.seed * 100_003)
    seen, sums = 0, mx.zeros(3)
    for step in range(1, options.steps + 1):
        optimizer.learning_rate = rate_now(step - 1, options.steps, options.rate)
        tokens, weights = map(mx.array, pack(tokenizer, documents, options.rows, options.length + 2))
        losses, gradients = gradient(tokens, weights)
        gradients, _ = optimizers.clip_grad_norm(gradients, 1.0)
        optimizer.update(network, gradients)
        network.balance()
        switches = [block.switch_mlp for block in network.blocks()]
        left_out = sum(switch.left_out for switch in switches) / sum(switch.load.sum() for switch in switches)
        sums += mx.stack([losses[1], losses[2], left_out])
        mx.eval(network.parameters(), optimizer.state, sums)
        seen += tokens.size
        if step % 50 == 0 or step == options.steps:
            own, heads, lost = (round(value / (step % 50 or 50), 4) for value in sums.tolist())
            told = {"step": step, "tokens": seen, "loss": own, "head's loss": heads, "left out": lost}
            print(json.dumps(told), flush=True)
            sums = mx.zeros(3)
            save_published(network, config, options.run)


if __name__ == "__main__":
    main()
