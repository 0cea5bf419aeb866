"""Where the families that mlx-vlm has and mlx-lm lacks keep their routed experts: read off mlx-vlm 0.7.10.

mlx-lm is the first choice: a family that both have stands in `moe_mlx.store.families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from moe_mlx.store.family import FUSED, GLU, MLP, ZAYA, Family

_OWN = ("language_model.model.layers",)
_ROUTED = Family(experts="n_routed_experts", containers=_OWN)
_COUNTED = Family(containers=_OWN)
_DEEPSEEK_V2 = replace(_ROUTED, defaults={"n_routed_experts": 64, "num_experts_per_tok": 6})

#: model_type, as `mlx_vlm.utils.get_model_type` has it -> family.
VLM_FAMILIES: dict[str, Family] = {
    "cohere2_moe": replace(_COUNTED, defaults={"num_experts": 128, "num_experts_per_tok": 8}),
    "deepseek_v4": replace(
        _ROUTED, switch="ffn.switch_mlp", defaults={"n_routed_experts": 256, "num_experts_per_tok": 6}
    ),
    "deepseek_vl_v2": _DEEPSEEK_V2,
    "deepseekocr": _DEEPSEEK_V2,
    "deepseekocr_2": _DEEPSEEK_V2,
    "ernie4_5_moe_vl": replace(
        _COUNTED, experts="moe_num_experts", top_k="moe_k", defaults={"moe_num_experts": 128, "moe_k": 2}
    ),
    "flint": replace(_COUNTED, defaults={"num_experts": 256, "num_experts_per_tok": 6}),
    "glm4v_moe": _ROUTED,
    "glm5_next": replace(_ROUTED, defaults={"n_routed_experts": 288, "num_experts_per_tok": 8}),
    "hy_v4": replace(_ROUTED, projections=FUSED, defaults={"n_routed_experts": 256, "num_experts_per_tok": 8}),
    "inkling": replace(
        _ROUTED,
        factors=("gate_scale", "out_scale"),
        defaults={"n_routed_experts": 256, "num_experts_per_tok": 6},
    ),
    "kolibri1": _COUNTED,
    "longcat_flash_sparse": replace(
        _ROUTED, top_k="moe_topk", layers="num_layers", defaults={"n_routed_experts": 256, "moe_topk": 12}
    ),
    "mimo_v2": replace(_ROUTED, defaults={"n_routed_experts": 256, "num_experts_per_tok": 8}),
    "minicpmv4_7": _COUNTED,
    "minimax_m3": replace(
        _COUNTED,
        switch="block_sparse_moe.switch_mlp",
        experts="num_local_experts",
        defaults={"num_local_experts": 128, "num_experts_per_tok": 4},
        projections=FUSED,
        always=1,
    ),
    "mistral_large3": replace(_ROUTED, defaults={"n_routed_experts": 128, "num_experts_per_tok": 4}),
    "moondream3": Family(
        switch="mlp",
        defaults={"num_experts": 64, "num_experts_per_tok": 8, "moe_start_layer": 4},
        containers=("text.model.blocks", "text.blocks", "model.text.blocks"),
        projections=MLP,
        first="moe_start_layer",
    ),
    "nemotron_h_nano_omni": replace(
        _ROUTED,
        switch="mixer.switch_mlp",
        containers=("language_model.backbone.layers",),
        layers="",
        projections=MLP,
    ),
    "qwen3_5_moe_text": _COUNTED,
    "qwen3_omni_moe": replace(_COUNTED, containers=("thinker.language_model.model.layers",)),
    "qwen4_exp": _COUNTED,
    "step3p7": replace(
        _COUNTED,
        experts="moe_num_experts",
        top_k="moe_top_k",
        defaults={"moe_num_experts": 288, "moe_top_k": 8},
    ),
    "unlimited_ocr": _DEEPSEEK_V2,
    "xing4_0": replace(_ROUTED, defaults={"num_experts_per_tok": 1}),
    "youtu_vl": replace(_ROUTED, defaults={"num_experts_per_tok": 1}),
    "zaya1_vl": replace(
        _COUNTED,
        switch="mlp.zaya_block.experts",
        top_k="moe_router_topk",
        defaults={"num_experts": 16, "moe_router_topk": 1},
        projections=(*ZAYA, *(f"lora_fc{n}.{m}" for n in (1, 2) for m in (0, 1))),
    ),
}


def vlm_family(kind: str, config: Mapping[str, Any]) -> Family | None:
    """Returns mlx-vlm's family of that name, as the config has it built; None where there is none."""
    family = VLM_FAMILIES.get(kind)
    if family is not None and kind == "minimax_m3" and not _packed(config):
        return replace(family, projections=GLU, always=0)
    if family is not None and kind == "zaya1_vl" and config.get("vision_lora") is False:
        return replace(family, projections=ZAYA)
    return family


def _packed(config: Mapping[str, Any]) -> bool:
    """Whether MiniMax M3's shared expert is one more of its routed ones, by mlx-vlm's own rule."""
    text = {**config, **(config.get("text_config") or {})}
    if (told := text.get("pack_shared_expert")) is not None:
        return bool(told)
    widths = (text.get("shared_intermediate_size", 3072), text.get("intermediate_size", 3072))
    return text.get("n_shared_experts", 1) == 1 and widths[0] == widths[1]


_DENSE = "dense, on a file that others have experts on"
_NO_TOKENS = "makes no text token by token"
#: Packages of mlx-vlm that are read to have to do with experts, and are not run here.
VLM_LEFT: dict[str, str] = {
    "clef": _DENSE,
    "d1": _DENSE,
    "decider2": _DENSE,
    "diffusion_gemma": _NO_TOKENS,
    "hunyuan_vl": _DENSE,
    "indic_ocr": _DENSE,
    "lfm2": _DENSE,
    "lfm2_vl": _DENSE,
    "llada2_moe": _NO_TOKENS,
    "llada_image": _NO_TOKENS,
    "minicpmv4_6": _DENSE,
    "ming_image": _NO_TOKENS,
    "nemotron_voicechat": _NO_TOKENS,
    "openai_privacy_filter": _NO_TOKENS,
    "qwen3_5_text": _DENSE,
}

#: Families that mlx-lm builds for text and mlx-vlm for pictures, from the same checkpoint or store.
WITH_PICTURES = frozenset({"gemma4", "kimi_k25", "kimi_vl", "llama4", "mistral3", "qwen3_5_moe", "qwen3_vl_moe"})

#: Other names of the same families, as `mlx_vlm.utils.MODEL_REMAPPING` has them.
VLM_ALIASES: dict[str, str] = {
    "cohere2moe": "cohere2_moe",
    "inkling_mm_model": "inkling",
    "nemotron_h_omni": "nemotron_h_nano_omni",
    "nemotronh_nano_omni_reasoning_v3": "nemotron_h_nano_omni",
    "unlimited-ocr": "unlimited_ocr",
}
