"""Every MoE block of mlx-lm: where its router and its switch are, what the router ranks by and how it weighs.

Read off mlx-lm 0.32.2; `tests/golden/test_families.py` runs each row against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlx.core as mx

from moe_mlx.families import combine, late
from moe_mlx.families.logits import linear, matrix, normed, softcapped, tempered, wide_input, wide_matrix
from moe_mlx.families.odd_routers import MuseSpark, SparseMixer
from moe_mlx.families.routers import Groups, Router, Scored, TopKSoftmax, last


@dataclass(frozen=True, slots=True)
class Site:
    """One class of block that holds a router and routed experts.

    Attributes:
        block: Its class.
        router: What it ranks by and how it weighs; None where only exact routing is possible (top-1).
        switch: Where the switch is, from the block.
        gate: Where the module is that returns (indices, weights), from the block; None where the block routes inline.
        reads: Where the module is that the router's arithmetic reads, from the routed one; None where it is that.
        flat: Whether an inline block works on flattened rows.
        enter: From an inline block's input to its experts'.
        combine: From the experts' outputs to an inline block's.
        mixin: "module:class" under `moe_mlx.families` of a block that is replaced in every call; by default,
            `mixins:RoutedGate` or `mixins:RoutedBlock`, for decode steps under a lossy policy only.
        why: Why there is no router.
        add_late: How late experts' outputs are added a layer later; None where they cannot be.
        why_waits: Why they cannot.
    """

    block: str
    router: Router | None
    switch: str = "switch_mlp"
    gate: str | None = None
    reads: str | None = None
    flat: bool = False
    enter: combine.Enter = combine.as_is
    combine: combine.Combine = combine.weighed
    mixin: str = ""
    why: str = ""
    add_late: late.AddLate | None = late.bare
    why_waits: str = ""


#: DeepSeek-V3 and all that follow it.
V3 = Scored(
    matrix,
    "top_k",
    bias="e_score_correction_bias",
    groups=Groups(),
    norm="norm_topk_prob",
    scale="routed_scaling_factor",
)
V3_EPS = replace(V3, add=1e-20)
#: Qwen and its like: a softmax over all experts.
SOFTMAX = Scored(linear("gate"), "top_k", activation="softmax", float32=False, norm="norm_topk_prob")
SOFTMAX_LAST = replace(SOFTMAX, pick=last)
#: Mixtral and its like: a softmax over the chosen.
_MIXTRAL = TopKSoftmax(linear("gate"), "num_experts_per_tok")
_GRANITE = TopKSoftmax(linear("layer"), "top_k", last)
_BAILING = Scored(
    linear("gate_proj"),
    "top_k",
    activation="@score_function",
    bias="expert_bias",
    groups=Groups(),
    norm="norm_topk_prob",
    scale="routed_scaling_factor",
    cast=True,
)
_KIMI = Scored(
    linear("gate"),
    "args.num_experts_per_token",
    bias="e_score_correction_bias",
    groups=Groups("args.num_expert_group", "args.topk_group"),
    norm="args.moe_renormalize",
    add=1e-20,
    scale="args.routed_scaling_factor",
)
_MINIMAX = Scored(wide_input, "num_experts_per_tok", bias="e_score_correction_bias", add=1e-20, cast=True)
LONGCAT = Scored(
    linear("classifier"),
    "top_k",
    activation="imprecise softmax",
    pick=last,
    float32=False,
    bias="e_score_correction_bias",
    norm="norm_topk_prob",
    add=1e-20,
    scale="routed_scaling_factor",
    cast=True,
)

#: Model file under `mlx_lm.models` -> the block it defines.
SITES: dict[str, Site] = {
    "Klear": Site(
        "KlearSparseMoeBlock",
        Scored(linear("gate"), "top_k", bias="expert_bias", norm="norm_topk_prob", cast=True),
        switch="experts",
        combine=combine.coefficient,
        add_late=late.routed_share,
    ),
    "afmoe": Site(
        "AfmoeMoE",
        Scored(
            linear("router"),
            "num_experts_per_tok",
            activation="@score_func",
            bias="expert_bias",
            groups=Groups(),
            norm="route_norm",
            scale="route_scale",
        ),
        switch="experts",
        combine=combine.shared,
        add_late=None,
        why_waits="a norm stands between its block and the residual",
    ),
    "bailing_hybrid": Site("SparseMoeBlock", replace(_BAILING, groups=Groups(fill=-mx.inf), add=1e-20), gate="gate"),
    "bailing_moe": Site("BailingMoeSparseMoeBlock", replace(_BAILING, pick=last, add=1e-20), gate="gate"),
    "bailing_moe_linear": Site("SparseMoeBlock", _BAILING, gate="gate"),
    "bailing_moe_v3": Site(
        "BailingSparseMoE",
        Scored(
            wide_matrix,
            "top_k",
            bias="expert_bias",
            groups=Groups(fill=-mx.inf),
            add=1e-20,
            scale="routed_scaling_factor",
        ),
        gate="gate",
    ),
    "dbrx": Site(
        "SparseMoeBlock",
        Scored(linear("router"), "num_experts_per_tok", activation="softmax", cast=True),
        switch="experts",
        mixin="dbrx:DbrxBlock",
    ),
    "deepseek": Site("DeepseekMoE", replace(SOFTMAX, logits=matrix, norm=False), gate="gate"),
    "deepseek_v2": Site(
        "DeepseekV2MoE",
        replace(
            SOFTMAX,
            logits=matrix,
            norm=False,
            scale="routed_scaling_factor",
            groups=Groups(best_of=1, when=lambda m: m.topk_method == "group_limited_greedy", weighs_masked=True),
        ),
        gate="gate",
    ),
    "deepseek_v3": Site("DeepseekV3MoE", V3, gate="gate"),
    "deepseek_v32": Site("DeepseekV32MoE", V3, gate="gate"),
    "deepseek_v41": Site(
        "MoE",
        Scored(
            tempered,
            "top_k",
            activation="@score_func",
            bias="e_score_correction_bias",
            norm="norm_topk_prob",
            add=1e-20,
            scale="route_scale",
        ),
        switch="experts.switch_mlp",
        gate="gate",
        add_late=None,
        why_waits="hyper-connections weigh each layer's output their own way",
    ),
    "dots1": Site("Dots1MoE", V3, switch="experts", gate="gate"),
    "ernie4_5_moe": Site(
        "Ernie4_5_MoeMLP",
        Scored(linear("gate"), "k", activation="@args.moe_gate_act", least=1e-12),
        combine=combine.shared,
    ),
    "exaone_moe": Site("MoE", V3_EPS, gate="gate"),
    "gemma4_text": Site(
        "DecoderLayer",
        TopKSoftmax(normed, "config.top_k_experts", last, lambda z: mx.softmax(z, axis=-1), scale="per_expert_scale"),
        switch="experts.switch_glu",
        gate="router",
        add_late=None,
        why_waits="a norm stands between its experts and the residual",
    ),
    "glm4_moe": Site("MoE", V3, gate="gate"),
    "glm4_moe_lite": Site("Glm4MoeLiteMoE", V3_EPS, gate="gate"),
    "gpt_oss": Site("MLPBlock", TopKSoftmax(linear("router"), "num_experts_per_tok", last), switch="experts"),
    "granitemoe": Site(
        "GraniteMoeMoE",
        replace(_GRANITE, softmax=lambda z: mx.softmax(z.astype(mx.float32), axis=-1)),
        gate="router",
    ),
    "granitemoehybrid": Site("GraniteMoeHybridMoE", _GRANITE, gate="router"),
    "hunyuan": Site("MoeBlock", replace(SOFTMAX, norm=False), combine=combine.mixed_shared),
    "jamba": Site("JambaSparseMoeBlock", replace(_MIXTRAL, logits=linear("router"))),
    "kimi_k3": Site(
        "KimiK3SparseMoE",
        replace(_KIMI, cast=True),
        enter=combine.kimi_latent,
        combine=combine.latent_shared,
        add_late=None,
        why_waits="its experts' sum is normed",
    ),
    "kimi_linear": Site(
        "KimiSparseMoE",
        replace(_KIMI, activation="@args.moe_router_activation_func", float32=False, low=True),
        combine=combine.shared_promoted,
    ),
    "laguna": Site(
        "MoE",
        Scored(softcapped, "top_k", activation="@score_func", bias="e_score_correction_bias"),
        gate="gate",
        add_late=late.scaled,
    ),
    "lfm2_moe": Site(
        "Lfm2MoeSparseMoeBlock",
        Scored(
            linear("gate"),
            "top_k",
            pick=last,
            float32=False,
            bias="expert_bias",
            norm="norm_topk_prob",
            add=1e-6,
            scale="routed_scaling_factor",
            cast=True,
        ),
    ),
    "llama4": Site(
        "MoE",
        None,
        switch="experts",
        why="top-1: one expert a token, nothing to trade",
        add_late=None,
        why_waits="top-1: one expert a token, and the heaviest is waited for",
    ),
    "longcat_flash": Site("LongcatFlashMoE", LONGCAT, reads="router", mixin="longcat:LongcatBlock"),
    "mellum": Site("MellumSparseMoeBlock", SOFTMAX_LAST),
    "mimo_v2_flash": Site("MoE", V3_EPS, gate="gate"),
    "minimax": Site("MiniMaxSparseMoeBlock", _MINIMAX),
    "minimax_m3_vl": Site(
        "SparseMoeBlock",
        replace(_MINIMAX, logits=linear("gate"), scale="routed_scaling_factor"),
        flat=True,
        combine=combine.shared_promoted,
    ),
    "mistral4": Site(
        "Mistral4MoE",
        Scored(
            linear("gate"),
            "num_experts_per_tok",
            activation="softmax",
            groups=Groups("args.n_group", "args.topk_group"),
            norm="args.norm_topk_prob",
            add=1e-20,
            scale="args.routed_scaling_factor",
        ),
        combine=combine.shared,
    ),
    "mixtral": Site("MixtralSparseMoeBlock", _MIXTRAL),
    "muse_spark": Site(
        "MoE",
        MuseSpark(),
        switch="experts",
        enter=combine.muse_latent,
        combine=combine.muse_spark,
        add_late=None,
        why_waits="its residual is gated, layer by layer",
    ),
    "nemotron_h": Site("NemotronHMoE", V3_EPS, gate="gate", add_late=late.latent_up),
    "olmoe": Site("OlmoeSparseMoeBlock", SOFTMAX, flat=True),
    "phimoe": Site(
        "PhiMoESparseMoeBlock",
        SparseMixer(),
        add_late=None,
        why_waits="each expert is weighed in a band of its own, so none is light",
    ),
    "phixtral": Site("MOE", _MIXTRAL),
    "qwen2_moe": Site("Qwen2MoeSparseMoeBlock", replace(SOFTMAX, norm=False), combine=combine.gated_shared),
    "qwen3_moe": Site("Qwen3MoeSparseMoeBlock", SOFTMAX_LAST, combine=combine.weighed_like),
    "qwen3_next": Site("Qwen3NextSparseMoeBlock", SOFTMAX_LAST, combine=combine.gated_shared),
    "step3p5": Site(
        "Step3p5MoE",
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
}
