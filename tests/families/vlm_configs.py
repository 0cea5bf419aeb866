"""Tiny configurations, one a row, for every MoE family that mlx-vlm builds here; `COMMON` is mlx-lm's."""

from typing import Any

from tests.families.configs import COMMON, EXPERTS, FAMILIES, FULL, SLIDING, TOP_K, Config

VISION: Config = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 64,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0],
}
MROPE: Config = {
    "type": "default",
    "rope_type": "default",
    "mrope_section": [2, 1, 1],
    "rope_theta": 1e4,
    "partial_rotary_factor": 0.5,
}
QWEN_IDS: Config = {
    "image_token_id": 3,
    "image_token_index": 3,
    "video_token_id": 4,
    "video_token_index": 4,
    "vision_start_token_id": 1,
    "vision_end_token_id": 2,
}
OCR_VISION: Config = {
    "model_type": "vision",
    "layers": 2,
    "width": 32,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}
DEEPSEEK_V2: Config = {
    "num_key_value_heads": 4,
    "scoring_func": "softmax",
    "topk_method": "greedy",
    "rope_scaling": None,
}
NEMOTRON_H: Config = {**FAMILIES["nemotron_h"], "model_type": "nemotron_h"}
LINEAR: Config = {"head_dim": 32, "num_heads": 2, "short_conv_kernel_size": 4}


def wrapped(text: Config, **rest: Any) -> Config:
    """Put a text configuration where multimodal models look for it."""
    return {"text_config": {**COMMON, **text}, **rest}


VLM_CONFIGS: dict[str, Config] = {
    "cohere2_moe": {**COMMON, "moe_num_shared_experts": 1, "sliding_window_pattern": 2},
    "cohere2_moe+softmax": {
        **COMMON,
        "moe_num_shared_experts": 1,
        "moe_gate_act": "softmax",
        "shared_expert_combination_strategy": "sum",
    },
    "deepseek_v4": {
        **COMMON,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "o_groups": 2,
        "o_lora_rank": 32,
        "num_hidden_layers": 4,
        "num_hash_layers": 1,
        "compress_ratios": [0, 4, 128, 0],
        "scoring_func": "sqrtsoftplus",
        "hc_mult": 2,
        "hc_sinkhorn_iters": 4,
    },
    "deepseek_vl_v2": wrapped(DEEPSEEK_V2, vision_config=OCR_VISION, projector_config={"input_dim": 32, "n_embed": 64}),
    "ernie4_5_moe_vl": {
        **COMMON,
        "head_dim": 16,
        "moe_num_experts": [EXPERTS, 8],
        "moe_k": TOP_K,
        "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [2, 2],
        "moe_intermediate_size": [64, 32],
        "moe_num_shared_experts": 1,
        "mrope_section": [3, 3, 2],
        "pixel_hidden_size": 32,
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8},
    },
    "flint": {**COMMON, "layer_types": [FULL, SLIDING, FULL], "mlp_only_layers": [0]},
    "glm4v_moe": wrapped(
        {
            "model_type": "glm4v_moe_text",
            "use_qk_norm": False,
            "partial_rotary_factor": 0.5,
            "rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "mrope_section": [4, 2, 2]},
        },
        vision_config={**VISION, "model_type": "glm4v_moe"},
    ),
    "glm5_next": wrapped(
        {
            "model_type": "glm5_next_text",
            "num_key_value_heads": 4,
            "num_hidden_layers": 4,
            "qk_rope_head_dim": 0,
            "hc_mult": 2,
            "hc_sinkhorn_iters": 4,
            "linear_attn_config": LINEAR,
            "index_kpool": 4,
            "swiglu_limit": 7.0,
        },
        vision_config={**VISION, "projection_intermediate_size": 64},
    ),
    "hy_v4": {**COMMON, "num_key_value_heads": 4, "hc_mult": 2, "n_group": 1, "topk_group": 1},
    "inkling": wrapped(
        {
            "model_type": "inkling",
            "dense_intermediate_size": 64,
            "dense_mlp_idx": 1,
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 32,
            "sliding_window_size": 16,
            "layer_types": ["hybrid", "hybrid_sliding", "hybrid"],
            "d_rel": 8,
            "rel_extent": 64,
            "n_shared_experts": 2,
            "route_scale": 2.0,
        },
        vision_config={"patch_size": 8, "n_layers": 2},
        audio_config={"n_mel_bins": 8, "mel_vocab_size": 4},
    ),
    "kolibri1": {**COMMON, "layer_types": [FULL, SLIDING, FULL]},
    "longcat_flash_sparse": {
        **COMMON,
        "ffn_hidden_size": 64,
        "expert_ffn_hidden_size": 64,
        "moe_topk": 4,
        "num_layers": 2,
        "zero_expert_num": 8,
        "index_topk": 16,
        "index_init_tokens": 2,
        "index_local_tokens": 4,
        "cli_factor": 2,
    },
    "mimo_v2": {
        **COMMON,
        "hybrid_layer_pattern": [0, 1, 0],
        "moe_layer_freq": [0, 1, 1],
        "swa_head_dim": 32,
        "swa_v_head_dim": 32,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 2,
        "sliding_window_size": 16,
        "n_shared_experts": None,
        "layernorm_epsilon": 1e-5,
        "vision_config": {
            **VISION,
            "num_key_value_heads": 1,
            "num_query_groups": 2,
            "qk_channels": 16,
            "fullatt_block_indexes": [0],
            "vit_window_attn_types": [-1, -1],
        },
        "audio_config": {
            "out_hidden_size": 64,
            "audio_channels": 2,
            "input_local_attn_heads": 2,
            "input_local_dim": 32,
            "input_local_head_dim": 16,
            "input_local_intermediate_size": 64,
            "input_local_layers": 1,
            "speech_vocab_size": 16,
            "speech_zeroemb_idx": 8,
        },
    },
    "mistral_large3": wrapped(
        {"num_key_value_heads": 4},
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
            "num_channels": 3,
        },
    ),
    "nemotron_h_nano_omni": wrapped(
        NEMOTRON_H,
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 16,
            "max_resolution": 64,
        },
        vit_hidden_size=32,
        projector_hidden_size=64,
    ),
    "qwen3_5_moe_text": {**COMMON, "rope_parameters": MROPE},
    "qwen3_omni_moe": {
        "enable_audio_output": False,
        "thinker_config": wrapped(
            {"rope_scaling": {"type": "default", "mrope_section": [6, 5, 5]}},
            vision_config={**VISION, "image_size": 32, "spatial_patch_size": 8},
            audio_config={
                "d_model": 32,
                "encoder_layers": 1,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "num_hidden_layers": 1,
                "num_mel_bins": 16,
                "output_dim": 64,
                "downsample_hidden_size": 8,
            },
        ),
        "talker_config": wrapped({}, code_predictor_config={}),
    },
    "qwen4_exp": wrapped(
        {
            "model_type": "qwen4_exp_text",
            "hc_count": 2,
            "hc_lowrank": 16,
            "num_hidden_layers": 4,
            "ple_layer_ids": [1],
            "ple_embed_dim": 64,
            "ngram_size": 2,
            "heads_per_ngram": 2,
            "ngram_vocab_size_base": 50,
            "make_ngram_vocab_size_divisible_by": 8,
            "split_ngram_parts": 2,
            "eos_token_id": 1,
            "indexer_n_heads": 2,
            "indexer_head_dim": 32,
            "indexer_budget": 32,
            "indexer_kv_heads": 1,
            "indexer_compress_ratio": 4,
            "mtp_num_hidden_layers": 0,
            "rope_parameters": MROPE,
        },
        vision_config={**VISION, "deepstack_visual_indexes": [], "model_type": "qwen4_exp"},
        **QWEN_IDS,
    ),
    "step3p7": wrapped(
        {
            "model_type": "step3p5",
            "num_attention_groups": 2,
            "moe_num_experts": EXPERTS,
            "moe_top_k": TOP_K,
            "share_expert_dim": 64,
            "moe_layers_enum": "1,2",
            "layer_types": [FULL, SLIDING, FULL],
            "use_moe_router_bias": True,
            "moe_router_activation": "sigmoid",
            "moe_router_scaling_factor": 2.0,
            "use_head_wise_attn_gate": True,
        },
        vision_config={
            "width": 32,
            "layers": 2,
            "heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "mlp_ratio": 2.0,
        },
    ),
    "xing4_0": {**COMMON, "num_key_value_heads": 4, "hc_mult": 2, "hc_sinkhorn_iters": 4},
    "youtu_vl": {
        **COMMON,
        "num_key_value_heads": 4,
        "vision_config": {
            "hidden_size": 32,
            "out_hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_patches": 16,
            "patch_size": 8,
            "fullatt_block_indexes": [1],
        },
    },
}


def vlm_config(name: str) -> Config:
    """Return the complete ``config.json`` of a row."""
    return {"model_type": name.partition("+")[0], "vocab_size": COMMON["vocab_size"], **VLM_CONFIGS[name]}
