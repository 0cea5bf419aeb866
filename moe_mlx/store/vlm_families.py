"""Where the families that mlx-vlm has and mlx-lm lacks keep their routed experts: read off mlx-vlm 0.7.10.

mlx-lm is the first choice: a family that both have stands in `moe_mlx.store.families`.
"""

from __future__ import annotations

from dataclasses import replace

from moe_mlx.store.family import FUSED, MLP, Family

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
    "mistral_large3": replace(_ROUTED, defaults={"n_routed_experts": 128, "num_experts_per_tok": 4}),
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
}

#: Families that mlx-lm builds for text and mlx-vlm for pictures, from the same checkpoint or store.
WITH_PICTURES = frozenset({"qwen3_5_moe", "qwen3_vl_moe"})

#: Other names of the same families, as `mlx_vlm.utils.MODEL_REMAPPING` has them.
VLM_ALIASES: dict[str, str] = {
    "cohere2moe": "cohere2_moe",
    "inkling_mm_model": "inkling",
    "nemotron_h_omni": "nemotron_h_nano_omni",
    "nemotronh_nano_omni_reasoning_v3": "nemotron_h_nano_omni",
    "unlimited-ocr": "unlimited_ocr",
}
