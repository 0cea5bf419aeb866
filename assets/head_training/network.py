"""A small glm_moe_dsa and its prediction head: mlx-lm's model, mlx-vlm's head, one loss."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.utils import _get_classes

from .grouped import GroupedExperts

#: Of the head's loss beside the model's; DeepSeek-V3 begins with 0.3.
HEAD_WEIGHT = 0.3
#: By how much a router's bias moves towards an expert that got too little, a step (DeepSeek-V3: 0.001, at more steps).
BIAS_STEP = 0.003


def config_of(vocabulary: int, end: int, pad: int) -> dict[str, Any]:
    """Returns the config.json of the published form, its head among the layers."""
    return {
        "model_type": "glm_moe_dsa",
        "architectures": ["GlmMoeDsaForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "n_routed_experts": 32,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "moe_intermediate_size": 64,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "q_lora_rank": 64,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        # As many keys as the context has tokens: its sparse attention leaves none out.
        "index_topk": 2048,
        "index_n_heads": 2,
        "index_head_dim": 32,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": False,
        "tie_word_embeddings": False,
        "num_nextn_predict_layers": 1,
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "float32",
    }


class ModelWithHead(nn.Module):
    """Both, to be trained together: the head reads the model's hidden states and shares its embedding and output layer.

    Args:
        config: As `config_of` makes it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        from mlx_vlm.utils import get_model_and_args

        super().__init__()
        model_class, args = _get_classes(config)
        self.model = model_class(args.from_dict(config))
        own = {"model_type": "glm_moe_dsa_mtp", "text_config": config, "block_size": 2}
        package = get_model_and_args(dict(own))[0]
        self.head = package.Model(package.ModelConfig.from_dict(own))
        for block in self.blocks():
            block.gate.weight = mx.random.normal(block.gate.weight.shape) * block.gate.weight.shape[1] ** -0.5
            block.switch_mlp = GroupedExperts(block.switch_mlp)

    def blocks(self) -> list[Any]:
        """The blocks of experts, the head's last."""
        layers = [*(layer.mlp for layer in self.model.layers), self.head.mtp.mlp]
        return [block for block in layers if hasattr(block, "switch_mlp")]

    def losses(self, tokens: mx.array, weights: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Returns the loss to be trained by, the model's and the head's.

        Args:
            tokens: int32 `[B, L + 2]`.
            weights: float32 `[B, L + 2]`, how much each counts when it is guessed.
        """
        hidden = self.model.model(tokens[:, :-1])
        own = weighed(self.model.lm_head(hidden), tokens[:, 1:], weights[:, 1:])
        embedded = self.model.model.embed_tokens(tokens[:, 1:-1])
        mask = mx.tril(mx.ones((embedded.shape[1], embedded.shape[1]), mx.bool_))
        guessed = self.model.lm_head(self.head.mtp(hidden[:, :-1], embedded, mask))
        heads = weighed(guessed, tokens[:, 2:], weights[:, 2:])
        return own + HEAD_WEIGHT * heads, own, heads

    def balance(self) -> None:
        """Moves the routers' biases by what each expert got in the last step."""
        for block in self.blocks():
            load = block.switch_mlp.load.astype(mx.float32)
            block.gate.e_score_correction_bias += BIAS_STEP * mx.sign(load.mean() - load)


def weighed(logits: mx.array, targets: mx.array, weights: mx.array) -> mx.array:
    """Returns the mean cross-entropy, each token by its weight."""
    return (nn.losses.cross_entropy(logits, targets) * weights).sum() / weights.sum()
