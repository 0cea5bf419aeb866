"""Tiny vision models of families that mlx-vlm shows pictures, and the small files that their processors are made of."""

from dataclasses import dataclass, field

from tests.families.configs import FAMILIES, Config
from tests.families.vlm_configs import MROPE, PIXTRAL, VISION, VLM_CONFIGS, wrapped

QWEN_SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IDS = {
    "vision_start_token_id": QWEN_SPECIAL[0],
    "vision_end_token_id": QWEN_SPECIAL[1],
    "image_token_id": QWEN_SPECIAL[2],
    "image_token_index": QWEN_SPECIAL[2],
    "video_token_id": QWEN_SPECIAL[3],
    "video_token_index": QWEN_SPECIAL[3],
}
#: 512 tokens of a picture at most.
QWEN_FILE = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen3VLProcessor",
    "patch_size": VISION["patch_size"],
    "temporal_patch_size": VISION["temporal_patch_size"],
    "merge_size": VISION["spatial_merge_size"],
    "min_pixels": 256,
    "max_pixels": 1 << 17,
    "size": {"shortest_edge": 256, "longest_edge": 1 << 17},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
MOONVIT = {
    "depth": 1,
    "num_hidden_layers": 1,
    "embed_dim": 32,
    "hidden_size": 32,
    "num_heads": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 8,
    "spatial_patch_size": 8,
    "init_pos_emb_height": 4,
    "init_pos_emb_width": 4,
}
LLAMA4_SPECIAL = (
    "<|image|>",
    "<|patch|>",
    "<|image_start|>",
    "<|image_end|>",
    "<|tile_x_separator|>",
    "<|tile_y_separator|>",
)
LLAMA4_VISION = {
    "model_type": "llama4_vision_model",
    "hidden_size": 32,
    "image_size": 28,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "norm_eps": 1e-5,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 1,
    "patch_size": 14,
    "pixel_shuffle_ratio": 0.5,
    "projector_dropout": 0.0,
    "projector_input_dim": 64,
    "projector_output_dim": 64,
    "rope_theta": 10000.0,
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default",
    "vision_output_dim": 64,
}
PICTURED_PIXTRAL = {**PIXTRAL, "image_size": 64}


@dataclass(frozen=True)
class Pictured:
    """One family.

    Attributes:
        config: Without the ids of its special tokens.
        special: Those tokens.
        ids: Key of the config -> the token whose id it is.
        shown: What the chat template writes for a picture.
        file: Its preprocessor_config.json.
        named: What the tokenizer calls some of them.
        chunked: Whether mlx-vlm's own loop reads a prompt of it in parts.
        stored: Whether it can be converted.
    """

    config: Config
    special: tuple[str, ...]
    ids: dict[str, str]
    shown: str
    file: Config
    named: dict[str, str] = field(default_factory=dict)
    chunked: bool = True
    stored: bool = True


def _qwen(config: Config) -> Pictured:
    return Pictured(config, QWEN_SPECIAL, QWEN_IDS, "".join(QWEN_SPECIAL[index] for index in (0, 2, 1)), QWEN_FILE)


def _kimi(name: str, groups: int) -> Pictured:
    pad, groups_of = "<|media_pad|>", {"n_group": groups, "topk_group": max(1, groups // 2)}
    return Pictured(
        {"text_config": {**FAMILIES[name]["text_config"], **groups_of}, "vision_config": MOONVIT},
        (pad,),
        {"media_placeholder_token_id": pad, "image_token_index": pad},
        pad,
        {"media_proc_cfg": {"patch_size": 8}},
        stored=name != "kimi_vl",  # mlx-lm 0.32.2 does not load its attention as published
    )


PICTURED: dict[str, Pictured] = {
    "gemma4": Pictured(
        {
            **FAMILIES["gemma4"],
            "vision_config": {
                "model_type": "gemma4_vision",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 16,
                "global_head_dim": 16,
                "patch_size": 8,
                "pooling_kernel_size": 2,
                "default_output_length": 6,
                "position_embedding_size": 64,
            },
        },
        ("<|image|>", "<|image>", "<image|>", "<|video|>"),
        {"image_token_id": "<|image|>", "boi_token_id": "<|image>", "eoi_token_id": "<image|>"},
        "<|image|>",
        {"patch_size": 8, "max_soft_tokens": 6, "pooling_kernel_size": 2},
        {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>"},
    ),
    "kimi_k25": _kimi("kimi_k25", 4),
    "kimi_vl": _kimi("kimi_vl", 1),
    "llama4": Pictured(
        {**FAMILIES["llama4"], "vision_config": LLAMA4_VISION},
        LLAMA4_SPECIAL,
        {"image_token_id": "<|patch|>", "image_token_index": "<|patch|>"},
        "<|image|>",
        {"size": {"height": 28, "width": 28}, "max_patches": 2},
    ),
    "mistral3": Pictured(
        {**FAMILIES["mistral3"], "vision_config": PICTURED_PIXTRAL, "spatial_merge_size": 2},
        ("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        {"image_token_id": "[IMG]", "image_token_index": "[IMG]"},
        "[IMG]",
        {"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 64}, "patch_size": 8},
    ),
    "qwen3_5_moe": _qwen(
        {
            "text_config": {**FAMILIES["qwen3_5_moe"]["text_config"], "rope_parameters": MROPE},
            "vision_config": {**VISION, "model_type": "qwen3_5_moe", "deepstack_visual_indexes": []},
        }
    ),
    "qwen3_vl_moe": _qwen(
        {
            **wrapped(
                {
                    "model_type": "qwen3_vl_moe_text",
                    "rope_scaling": {"type": "default", "mrope_section": [6, 5, 5]},
                }
            ),
            "vision_config": {**VISION, "model_type": "qwen3_vl_moe"},
        }
    ),
    "zaya1_vl": Pictured(
        VLM_CONFIGS["zaya1_vl"],
        ("<image>",),
        {"image_token_id": "<image>"},
        "<image>",
        QWEN_FILE,
        chunked=False,  # its language model calls its tokens otherwise than that loop does
    ),
}
