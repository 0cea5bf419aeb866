"""Tiny configurations, one a row, for every MoE family of mlx-lm.

Each row is what differs from ``COMMON``; mlx-lm's argument classes ignore the keys they do not know, so one superset of
names serves them all. A name with a ``+`` is a variant of the family before it: another router kind of the same file.
The dimensions are multiples of 64, so that every quantisation mode applies to every routed projection.
"""

from typing import Any

Config = dict[str, Any]

EXPERTS = 16
TOP_K = 3
SLIDING, FULL = "sliding_attention", "full_attention"

COMMON: Config = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    # experts, under each of the names that families give them
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": TOP_K,
    "moe_intermediate_size": 64,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "shared_expert_intermediate_size": 64,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    "first_k_dense_replace": 1,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "n_group": 4,
    "topk_group": 2,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    # latent attention
    "q_lora_rank": 32,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    # linear attention and state-space layers
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 2,
    "layer_group_size": 2,
    "group_norm_size": 2,
    "sliding_window": 16,
    # sparse attention
    "index_head_dim": 64,
    "index_n_heads": 2,
    "index_topk": 64,
}

MIXED_LAYERS = {"layer_types": [FULL, SLIDING, FULL]}
YARN: Config = {
    "type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 256,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
DEEPSEEK: Config = {"num_key_value_heads": 4}
KIMI_LINEAR: Config = {
    "num_experts_per_token": TOP_K,
    "num_expert_group": 4,
    "topk_group": 2,
    "linear_attn_config": {
        "num_heads": 2,
        "head_dim": 32,
        "kda_layers": [1, 3],
        "full_attn_layers": [2],
        "short_conv_kernel_size": 4,
        "gate_lower_bound": -5.0,
    },
    "model_max_length": 512,
    "num_key_value_heads": 4,
}
QWEN3_NEXT: Config = {"partial_rotary_factor": 0.5}
QWEN3_5: Config = {
    **QWEN3_NEXT,
    "rope_parameters": {"type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
BAILING: Config = {
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": 64,
    "use_qk_norm": True,
}
GLM4: Config = {"partial_rotary_factor": 0.5, "rope_scaling": None, "use_qk_norm": True}
LONGCAT: Config = {
    "attention_method": "MLA",
    "zero_expert_type": "identity",
    "zero_expert_num": 8,
    "ffn_hidden_size": 64,
    "expert_ffn_hidden_size": 64,
    "moe_topk": 4,
    "num_layers": 2,
    "mla_scale_q_lora": True,
    "mla_scale_kv_lora": True,
}
GRANITE: Config = {
    "logits_scaling": 4.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5,
    "head_dim": 16,
}
GEMMA4: Config = {
    "enable_moe_block": True,
    "top_k_experts": TOP_K,
    "global_head_dim": 32,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": 128,
    "layer_types": [SLIDING, FULL, FULL],
    "tie_word_embeddings": True,
}
MISTRAL4: Config = {
    "model_type": "mistral4",
    "num_key_value_heads": 4,
    "rope_parameters": {
        "rope_theta": 10000.0,
        "type": "default",
        "llama_4_scaling_beta": 0.1,
        "original_max_position_embeddings": 256,
    },
}
MINIMAX_M3: Config = {
    "model_type": "minimax_m3_vl_text",
    "dense_intermediate_size": 64,
    "shared_intermediate_size": 64,
    "moe_layer_freq": [0, 1, 1],
    "rotary_dim": 16,
}
LLAMA4: Config = {
    "model_type": "llama4_text",
    "attention_chunk_size": 64,
    "interleave_moe_layer_step": 2,
    "intermediate_size_mlp": 64,
    "num_experts_per_tok": 1,
    "num_hidden_layers": 4,
    "rope_scaling": None,
    "use_qk_norm": True,
}
MUSE_SPARK: Config = {
    "post_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 10000.0},
    "layer_rope_theta": [10000.0, 0.0, 10000.0],
    "layer_types": [SLIDING, FULL, FULL],
    "final_logit_softcapping": 30.0,
    "output_multiplier": 0.5,
    "moe_hidden_size": 64,
    "num_shared_experts": 0,
}


def wrapped(text: Config) -> Config:
    """Put a text configuration where multimodal wrappers look for it."""
    return {"text_config": {**COMMON, **text}}


FAMILIES: dict[str, Config] = {
    "Klear": {"model_type": "Klear"},
    "afmoe": {**MIXED_LAYERS, "num_dense_layers": 1, "route_scale": 1.5},
    "bailing_hybrid": {**BAILING, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "bailing_hybrid+softmax": {**BAILING, "num_key_value_heads": 4, "score_function": "softmax", "topk_group": 4},
    "bailing_moe": {**BAILING, "head_dim": 16},
    "bailing_moe+softmax": {
        **BAILING,
        "score_function": "softmax",
        "moe_router_enable_expert_bias": False,
        "n_group": 1,
    },
    "bailing_moe_linear": {**BAILING, "num_key_value_heads": 4},
    "bailing_moe_v3": {
        "model_type": "bailing_hybrid",
        "architectures": ["BailingMoeV3ForCausalLM"],
        "moe_shared_expert_intermediate_size": 64,
    },
    "dbrx": {
        "d_model": 64,
        "n_layers": 2,
        "n_heads": 4,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 8, "moe_top_k": TOP_K},
    },
    "deepseek": DEEPSEEK,
    "deepseek_v2": {**DEEPSEEK, "rope_scaling": YARN, "topk_method": "group_limited_greedy"},
    "deepseek_v2+greedy": {**DEEPSEEK, "rope_scaling": YARN, "topk_method": "greedy"},
    "deepseek_v3": DEEPSEEK,
    "deepseek_v3+nogroups": {**DEEPSEEK, "n_group": 1, "topk_group": 1, "norm_topk_prob": False},
    "deepseek_v32": DEEPSEEK,
    "deepseek_v41": {
        "num_attention_heads": 4,
        "head_dim": 64,
        "o_groups": 2,
        "o_lora_rank": 32,
        "compress_ratios": [0, 2, 2],
        "kv_source_layer_ids": [1],
        "index_source_layer_ids": [1],
        "candidate_source_layer_id": -1,
        "scoring_func": "sqrtsoftplus",
        "hc_mult": 2,
        "hc_sinkhorn_iters": 4,
    },
    "dots1": {},
    "ernie4_5_moe": {
        "moe_num_experts": EXPERTS,
        "moe_k": TOP_K,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
        "use_bias": True,
    },
    "ernie4_5_moe+sigmoid": {
        "moe_num_experts": EXPERTS,
        "moe_k": TOP_K,
        "moe_layer_start_index": 1,
        "use_bias": False,
        "moe_gate_act": "sigmoid",
    },
    "exaone_moe": {**MIXED_LAYERS, "is_moe_layer": [False, True, True]},
    "gemma4": wrapped({**GEMMA4, "model_type": "gemma4_text"}),
    "gemma4_text": GEMMA4,
    "glm4_moe": GLM4,
    "glm4_moe_lite": {"num_key_value_heads": 4},
    "glm_moe_dsa": {
        **DEEPSEEK,
        "moe_layer_freq": 1,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "gpt_oss": {"layer_types": [SLIDING, FULL, SLIDING]},
    "granitemoe": GRANITE,
    "granitemoehybrid": {
        **GRANITE,
        "layer_types": ["mamba", "attention", "mamba"],
        "shared_intermediate_size": 64,
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "mamba_proj_bias": False,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_groups": 1,
        "mamba_conv_bias": True,
    },
    "hunyuan": {
        "moe_topk": [2, 3, 4],
        "num_shared_expert": [1, 1, 1],
        "use_mixed_mlp_moe": True,
        "use_qk_norm": True,
        "use_cla": False,
        "cla_share_factor": 2,
        "rope_scaling": {"type": "dynamic", "factor": 1.0, "alpha": 1000.0},
    },
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
        "num_hidden_layers": 4,
        "mamba_d_conv": 4,
        "mamba_d_state": 16,
        "mamba_expand": 2,
    },
    "kimi_k25": wrapped({**DEEPSEEK, "model_type": "deepseek_v3"}),
    "kimi_k3": wrapped(
        {**KIMI_LINEAR, "routed_expert_hidden_size": 64, "latent_moe_use_norm": True, "attn_res_block_size": 2}
    ),
    "kimi_linear": KIMI_LINEAR,
    "kimi_linear+softmax": {**KIMI_LINEAR, "moe_router_activation_func": "softmax", "num_expert_group": 1},
    "kimi_vl": wrapped({**DEEPSEEK, "model_type": "deepseek_v3"}),
    "laguna": {**MIXED_LAYERS, "moe_router_logit_softcapping": 3.0, "moe_routed_scaling_factor": 1.5},
    "laguna+sqrtsoftplus": {**MIXED_LAYERS, "moe_router_score_func": "sqrtsoftplus"},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
        "use_expert_bias": True,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
    },
    "lfm2_moe+nobias": {
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
        "use_expert_bias": False,
        "norm_eps": 1e-5,
        "conv_bias": False,
        "conv_L_cache": 3,
    },
    "llama4": wrapped(LLAMA4),
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": {**LONGCAT, "ngram_vocab_size_ratio": 3, "emb_neighbor_num": 3, "emb_split_num": 2},
    "mellum": {
        **MIXED_LAYERS,
        "rope_parameters": {
            FULL: {"rope_theta": 10000.0, "rope_type": "default"},
            SLIDING: {"rope_theta": 10000.0, "rope_type": "default"},
        },
    },
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0],
        "moe_layer_freq": [0, 1, 1],
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "sliding_window_size": 16,
        "layernorm_epsilon": 1e-5,
        "swa_rope_theta": 10000.0,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "swa_head_dim": 32,
        "swa_v_head_dim": 32,
        "partial_rotary_factor": 0.5,
    },
    "minimax": {"shared_intermediate_size": 0, "rotary_dim": 16},
    "minimax_m3_vl": wrapped(MINIMAX_M3),
    "mistral3": wrapped(MISTRAL4),
    "mistral4": MISTRAL4,
    "mixtral": {},
    "muse_spark": {**wrapped(MUSE_SPARK), "audio_config": {"out_hidden_size": 64}},
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "E", "*", "-", "E"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 32,
        "mamba_proj_bias": False,
        "ssm_state_size": 16,
        "conv_kernel": 4,
        "n_groups": 2,
        "mlp_bias": False,
        "layer_norm_epsilon": 1e-5,
        "use_bias": False,
        "use_conv_bias": True,
        "moe_shared_expert_intermediate_size": 64,
        "moe_latent_size": 64,
    },
    "olmoe": {"num_key_value_heads": 4, "head_dim": 16},
    "phimoe": {
        "head_dim": 16,
        "num_experts_per_tok": 2,
        "rope_scaling": {
            "type": "longrope",
            "long_factor": [1.0] * 8,
            "short_factor": [1.0] * 8,
            "long_mscale": 1.1,
            "short_mscale": 1.1,
        },
        "original_max_position_embeddings": 256,
    },
    "phixtral": {"num_vocab": 128, "model_dim": 64, "num_heads": 2, "num_layers": 3, "rotary_dim": 16},
    "prism_hadamard_qwen35": {
        **wrapped({**QWEN3_5, "model_type": "qwen3_5_text"}),
        "schema_version": 2,
        "tensor_namespace": "mlx-vlm-qwen3_5",
        "quantization": {"bits": 2, "group_size": 128, "mode": "affine"},
        "modules": [{"path": "model.layers.1.self_attn.o_proj", "embedding": False, "dtype": "float16", "block": 0}],
    },
    "qwen2_moe": {},
    "qwen3_5": wrapped({**QWEN3_5, "model_type": "qwen3_5_text"}),
    "qwen3_5_moe": wrapped({**QWEN3_5, "model_type": "qwen3_5_moe_text"}),
    "qwen3_moe": {"mlp_only_layers": [0]},
    "qwen3_moe+unnormalised": {"norm_topk_prob": False},
    "qwen3_next": {**QWEN3_NEXT, "norm_topk_prob": True},
    "qwen3_vl_moe": wrapped({"model_type": "qwen3_moe"}),
    "solar_open": {"partial_rotary_factor": 1.0, "n_group": 1, "topk_group": 1},
    "step3p5": {
        **MIXED_LAYERS,
        "num_attention_groups": 2,
        "moe_num_experts": EXPERTS,
        "moe_top_k": TOP_K,
        "share_expert_dim": 64,
        "moe_layers_enum": "1,2",
        "swiglu_limits": [0, 7.0, 0],
        "swiglu_limits_shared": [0, 7.0, 0],
    },
}

#: mlx-lm takes these only as it packs them itself.
UNQUANTISED = {"prism_hadamard_qwen35"}


def config(name: str) -> Config:
    """Return the complete ``config.json`` of a row."""
    row = FAMILIES[name]
    base = {} if "text_config" in row else COMMON
    return {"model_type": name.split("+", maxsplit=1)[0], "vocab_size": COMMON["vocab_size"], **base, **row}
