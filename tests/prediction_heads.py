"""A real prediction head for a tiny model: mlx-vlm's module, trained by MLX on what the model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn, optimizers
from mlx.utils import tree_flatten
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

#: What the model is asked, and tokens of its answer that the head learns from.
PROMPT, LEARNT = [5, 9, 17, 33, 65, 12], 64


def trained_head(model_folder: Path, folder: Path, steps: int) -> Path:
    """Trains a head for a model of glm_moe_dsa and saves it as `mlx_vlm.split_mtp` would; returns the folder.

    Args:
        model_folder: A checkpoint.
        folder: Made.
        steps: Of Adam; 0 leaves it random.
    """
    from mlx_vlm.utils import get_model_and_args

    model, own = load_model(model_folder)
    text = {**own, "index_topk": 4096}  # MLX differentiates no choice of keys: its own attention looks at all of them
    config: dict[str, Any] = {"model_type": "glm_moe_dsa_mtp", "text_config": text, "block_size": 2}
    architecture = get_model_and_args(dict(config))[0]
    mx.random.seed(1)
    head = architecture.Model(architecture.ModelConfig.from_dict(config))
    made = [token for token, _ in generate_step(mx.array(PROMPT), model, max_tokens=LEARNT)]
    tokens = mx.array([PROMPT + made])
    hidden, embedded = model.model(tokens), model.model.embed_tokens(tokens)
    ahead = tokens[:, 2:]
    mask = nn.MultiHeadAttention.create_additive_causal_mask(ahead.shape[1]) == 0

    def loss(head: Any) -> mx.array:
        guessed = model.lm_head(head.mtp(hidden[:, :-2], embedded[:, 1:-1], mask))
        return nn.losses.cross_entropy(guessed, ahead).mean()

    optimizer, step = optimizers.Adam(learning_rate=3e-3), nn.value_and_grad(head, loss)
    for _ in range(steps):
        _, gradients = step(head)
        optimizer.update(head, gradients)
        mx.eval(head.parameters(), optimizer.state)
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(head.parameters())), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
