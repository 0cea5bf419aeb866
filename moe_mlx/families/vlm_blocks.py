"""The MoE blocks of mlx-vlm's language files that mlx-lm does not have, as `blocks` has mlx-lm's.

Read off mlx-vlm 0.7.10; `tests/golden/test_vlm_families.py` runs each row against it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import mlx.core as mx

from moe_mlx.families import combine
from moe_mlx.families.blocks import LONGCAT, SOFTMAX_LAST, V3, V3_EPS, Site
from moe_mlx.families.logits import linear, matrix, normed, wide_input_matrix, wide_matrix
from moe_mlx.families.odd_routers import BiasedLogits, KimiVL
from moe_mlx.families.routers import Groups, Scored, TopKSoftmax, last

#: Light experts are waited for: that they may be late has been tried with mlx-lm's families alone.
_site = partial(Site, add_late=None, why_waits="not tried with the families of mlx-vlm")

#: Package under `mlx_vlm.models` -> the block that its language file defines.
VLM_SITES: dict[str, Site] = {
    "cohere2_moe": _site(
        "CohereMoeSparseMoeBlock",
        Scored(linear("gate"), "top_k", activation="@gate_act.__class__.__name__", norm="norm_topk_prob", least=1e-12),
        combine=combine.cohere,
    ),
    "deepseek_v3": _site("DeepseekV3MoE", V3, gate="gate"),
    "deepseek_v4": _site(
        "DeepseekV4MoE",
        Scored(
            matrix,
            "top_k",
            activation="@scoring_func",
            bias="e_score_correction_bias",
            norm="norm_topk_prob",
            add=1e-20,
            scale="routed_scaling_factor",
        ),
        gate="gate",
        mixin="hashed:HashedGate",
    ),
    "deepseek_vl_v2": _site("DeepseekV2MoE", None, why="its gate masks groups in ways of its own"),
    "deepseekocr": _site("DeepseekV2MoE", None, why="its gate masks groups in ways of its own"),
    "ernie4_5_moe_vl": _site(
        "Ernie4_5_MoeMLP",
        Scored(
            linear("gate"),
            "k",
            activation="imprecise softmax",
            bias="e_score_correction_bias",
            least=1e-12,
        ),
        combine=combine.shared,
    ),
    "flint": _site(
        "SparseMoeBlock",
        Scored(linear("gate"), "top_k", pick=last, bias="expert_bias", add=1e-20),
        combine=combine.flint,
    ),
    "gemma4": _site(
        "DecoderLayer",
        TopKSoftmax(normed, "config.top_k_experts", last, lambda z: mx.softmax(z, axis=-1), scale="per_expert_scale"),
        switch="experts.switch_glu",
        gate="router",
    ),
    "glm4v_moe": _site("MoE", V3, gate="gate"),
    "glm5_next": _site(
        "Glm5NextMoE",
        replace(V3_EPS, logits=wide_input_matrix, groups=Groups(fill=-mx.inf)),
        gate="gate",
    ),
    "hy_v4": _site("HyV4MoE", V3, gate="gate"),
    "inkling": _site(
        "InklingSparseMoE",
        None,
        mixin="inkling:InklingBlock",
        why="routed and shared experts are weighed together",
    ),
    "kimi_vl": _site("DeepseekV3MoE", KimiVL(V3), gate="gate"),
    "kolibri1": _site("SparseMoeBlock", BiasedLogits(wide_matrix, "top_k"), gate="gate"),
    "longcat_flash_sparse": _site("LongcatFlashMoE", LONGCAT, reads="router", mixin="longcat:LongcatBlock"),
    "llama4": _site("MoE", None, switch="experts", why="top-1: one expert a token, nothing to trade"),
    "mimo_v2_flash": _site("MoE", V3_EPS, gate="gate"),
    "minimax_m3_vl": _site(
        "MiniMaxSparseMoeBlock", None, why="its shared expert is one of the routed ones, which every token takes"
    ),
    "mistral4": _site(
        "Mistral4MoE",
        Scored(
            linear("gate"),
            "top_k",
            activation="softmax",
            float32=False,
            norm="norm_topk_prob",
            add=1e-20,
            scale="routed_scaling_factor",
        ),
        combine=combine.shared,
    ),
    "moondream3": _site(
        "MoEMLP",
        TopKSoftmax(linear("router"), "num_experts_per_tok"),
        switch="experts",
        mixin="moondream3:MoondreamBlock",
    ),
    "nemotron_h": _site("NemotronHMoE", V3_EPS, gate="gate"),
    "qwen3_5_moe": _site("Qwen3_5MoeSparseMoeBlock", SOFTMAX_LAST, combine=combine.gated_shared),
    "qwen3_omni_moe": _site("Qwen3OmniMoeThinkerTextSparseMoeBlock", SOFTMAX_LAST),
    "qwen3_vl_moe": _site("Qwen3VLMoESparseMoeBlock", SOFTMAX_LAST),
    "qwen4_exp": _site("Qwen4ExpSparseMoeBlock", None, why="mlx-vlm's decode takes its block apart"),
    "step3p7": _site(
        "MoE",
        Scored(
            linear("gate"),
            "top_k",
            bias="router_bias",
            norm="norm_topk_prob",
            add=1e-20,
            scale="routed_scaling_factor",
        ),
        gate="gate",
    ),
    "youtu_vl": _site("YoutuMoE", V3, gate="gate"),
    "zaya1_vl": _site(
        "ZayaBlock",
        None,
        switch="experts",
        mixin="zaya:ZayaBlock",
        why="top-1: one expert a token, nothing to trade",
    ),
}
