"""Where each model family keeps its routed experts: a table read off mlx-lm's model files, without importing them.

A name alone does not make an expert: `shared_experts.gate_proj` is dense, deepseek_v41's `self_attn.o_a_proj` is a
SwitchLinear of attention groups, `mtp.layers.0.mlp.switch_mlp` belongs to a layer that mlx-lm drops. So the whole path
between the container of the layers and the projection has to match the family's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moe_mlx.errors import UnsupportedModelError
from moe_mlx.store.family import DBRX, MLP, Family
from moe_mlx.store.vlm_families import VLM_ALIASES, VLM_FAMILIES, VLM_LEFT, WITH_PICTURES, vlm_family

#: The libraries that build models, the first choice first.
MLX_LM, MLX_VLM = "mlx-lm", "mlx-vlm"

_ROUTED = Family(experts="n_routed_experts")
_DEEPSEEK_V3 = replace(_ROUTED, defaults={"num_experts_per_tok": 1})
_LOCAL = Family(switch="block_sparse_moe.switch_mlp", experts="num_local_experts")
_KIMI = Family(top_k="num_experts_per_token", defaults={"num_experts_per_token": 1})
_BARE_EXPERTS = Family(switch="mlp.experts")
_LONGCAT = Family(experts="n_routed_experts", top_k="moe_topk", layers="num_layers")
_NESTED = ("language_model.model.layers",)
#: Multimodal checkpoints in their published form nest the other way round; `sanitize` turns it.
_TURNED = ("language_model.model.layers", "model.language_model.layers")

#: model_type, as `mlx_lm.utils` resolves it, -> family.
FAMILIES: dict[str, Family] = {
    "Klear": _BARE_EXPERTS,
    "afmoe": replace(_BARE_EXPERTS, defaults={"num_experts": 128, "num_experts_per_tok": 8}),
    "bailing_hybrid": Family(),
    "bailing_moe": Family(),
    "bailing_moe_linear": Family(),
    "bailing_moe_v3": Family(defaults={"num_experts": 128, "num_experts_per_tok": 8}),
    "dbrx": Family(
        switch="ffn.experts",
        experts="ffn_config.moe_num_experts",
        top_k="ffn_config.moe_top_k",
        containers=("transformer.blocks",),
        layers="n_layers",
        projections=DBRX,
        unstacked=True,
    ),
    "deepseek": _ROUTED,
    "deepseek_v2": _ROUTED,
    "deepseek_v3": _DEEPSEEK_V3,
    "deepseek_v32": _DEEPSEEK_V3,
    "deepseek_v41": replace(
        _ROUTED, switch="mlp.experts.switch_mlp", defaults={"n_routed_experts": 384, "num_experts_per_tok": 6}
    ),
    "dots1": replace(_ROUTED, switch="mlp.experts"),
    "ernie4_5_moe": Family(experts="moe_num_experts", top_k="moe_k", defaults={"moe_k": 1}),
    "exaone_moe": Family(),
    "gemma4": Family(switch="experts.switch_glu", top_k="top_k_experts", containers=_TURNED),
    "gemma4_text": Family(switch="experts.switch_glu", top_k="top_k_experts"),
    "glm4_moe": _ROUTED,
    "glm4_moe_lite": replace(_ROUTED, defaults={"n_routed_experts": 64, "num_experts_per_tok": 4}),
    "glm_moe_dsa": _ROUTED,
    "gpt_oss": Family(
        switch="mlp.experts",
        experts="num_local_experts",
        defaults={"num_local_experts": 128, "num_experts_per_tok": 4},
    ),
    "granitemoe": _LOCAL,
    "granitemoehybrid": _LOCAL,
    "hunyuan": Family(top_k="moe_topk"),
    "jamba": Family(switch="feed_forward.switch_mlp"),
    "kimi_k25": replace(_DEEPSEEK_V3, containers=_NESTED),
    "kimi_k3": replace(
        _KIMI, defaults={"num_experts_per_token": 16}, containers=("language_model.model.layers", "model.layers")
    ),
    "kimi_linear": _KIMI,
    "kimi_vl": replace(_DEEPSEEK_V3, containers=_NESTED),
    "laguna": Family(defaults={"num_experts": 256, "num_experts_per_tok": 8}),
    "lfm2_moe": Family(switch="feed_forward.switch_mlp"),
    "llama4": Family(switch="feed_forward.experts", experts="num_local_experts", containers=_NESTED),
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": _LONGCAT,
    "mellum": Family(),
    "mimo_v2_flash": _ROUTED,
    "minimax": _LOCAL,
    "minimax_m3_vl": replace(_LOCAL, defaults={"num_local_experts": 128, "num_experts_per_tok": 4}, containers=_NESTED),
    "mistral3": replace(
        _ROUTED, containers=("language_model.model.layers", "model.language_model.layers", "model.layers")
    ),
    "mistral4": _ROUTED,
    "mixtral": replace(_LOCAL, defaults={"num_local_experts": 8, "num_experts_per_tok": 2}),
    "muse_spark": Family(
        switch="mlp.experts", experts="num_local_experts", containers=("model.language_model.layers",)
    ),
    "nemotron_h": Family(
        switch="mixer.switch_mlp",
        experts="n_routed_experts",
        containers=("backbone.layers",),
        layers="",  # mlx-lm counts the block pattern, whatever num_hidden_layers says
        projections=MLP,
    ),
    "olmoe": Family(),
    "phimoe": replace(_LOCAL, defaults={"num_local_experts": 16, "num_experts_per_tok": 2}),
    "phixtral": Family(
        switch="moe.switch_mlp",
        experts="num_local_experts",
        defaults={"num_local_experts": 4, "num_experts_per_tok": 2},
        containers=("transformer.h",),
        layers="num_layers",
        projections=MLP,
    ),
    "prism_hadamard_qwen35": Family(containers=(*_TURNED, "model.layers")),
    "qwen2_moe": Family(),
    "qwen3_5": Family(containers=(*_TURNED, "model.layers")),
    "qwen3_5_moe": Family(containers=(*_TURNED, "model.layers")),
    "qwen3_moe": Family(),
    "qwen3_next": Family(),
    "qwen3_vl_moe": Family(containers=_TURNED),
    "solar_open": _ROUTED,
    "step3p5": Family(experts="moe_num_experts", top_k="moe_top_k", defaults={"moe_num_experts": 288, "moe_top_k": 8}),
}

#: Other names of the same families, as `mlx_lm.utils.MODEL_REMAPPING` has them.
ALIASES: dict[str, str] = {
    "joyai_llm_flash": "deepseek_v3",
    "kimi_k2": "deepseek_v3",
    "minimax_m2": "minimax",
    "gemma4_unified": "gemma4",
    "deepseek_v41_text": "deepseek_v41",
    "phi-msft": "phixtral",
}


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """Finds the family that a config names.

    Args:
        config: The model's `config.json`.
        where: The model, named in errors.

    Raises:
        UnsupportedModelError: For a model type that the table does not hold.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModelError(f"{where}: config.json names no model_type, so its experts cannot be found.")
    family = FAMILIES.get(ALIASES.get(model_type, model_type)) or vlm_family(vlm_type(model_type), config)
    if family is None and (why := VLM_LEFT.get(vlm_type(model_type))):
        raise UnsupportedModelError(
            f"{where}: model type {model_type!r} is known to mlx-vlm and not run here: {why}. `moe-mlx families` lists "
            "what is."
        )
    if family is None:
        raise UnsupportedModelError(
            f"{where}: model type {model_type!r} is a dense model or a family whose experts are not known here. "
            "`moe-mlx families` lists what can be run."
        )
    return family


def vlm_type(model_type: str) -> str:
    """Returns what mlx-vlm calls a model type."""
    return VLM_ALIASES.get(model_type.lower(), model_type.lower())


def library_of(config: Mapping[str, Any], *, pictures: bool = False) -> str:
    """Returns which library builds a model: mlx-lm where it has the family, and no pictures are to be shown to it."""
    model_type = str(config.get("model_type"))
    if pictures and takes_pictures(config):
        return MLX_VLM
    known = ALIASES.get(model_type, model_type) in FAMILIES
    return MLX_VLM if not known and vlm_type(model_type) in VLM_FAMILIES else MLX_LM


def takes_pictures(config: Mapping[str, Any]) -> bool:
    """Whether a model is of a family that mlx-vlm can show pictures, by its config."""
    kind = vlm_type(str(config.get("model_type")))
    return kind in {*WITH_PICTURES, *VLM_FAMILIES} and isinstance(_vision(config), Mapping)


def _vision(config: Mapping[str, Any]) -> Any:
    thinker = config.get("thinker_config")
    return config.get("vision_config") or (thinker.get("vision_config") if isinstance(thinker, Mapping) else None)
