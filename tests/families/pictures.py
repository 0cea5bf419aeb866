"""A tiny vision model whose processor is mlx-vlm's own, and pictures to show it."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.families.configs import COMMON
from tests.families.vlm_configs import VISION
from tests.vlm_checkpoints import vlm_checkpoint

SPECIAL = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def qwen3_vl_checkpoint(folder: Path, quantize: dict[str, Any] | None = None) -> Path:
    """Makes a tiny Qwen3-VL-MoE that both libraries load, with tokenizer, template and processor."""
    ids = range(101, 101 + len(SPECIAL))
    config = {
        "model_type": "qwen3_vl_moe",
        "text_config": {
            **COMMON,
            "model_type": "qwen3_vl_moe_text",
            "rope_scaling": {"type": "default", "mrope_section": [6, 5, 5]},
        },
        "vision_config": {**VISION, "model_type": "qwen3_vl_moe"},
        "vocab_size": COMMON["vocab_size"],
        "vision_start_token_id": ids[0],
        "vision_end_token_id": ids[1],
        "image_token_id": ids[2],
        "video_token_id": ids[3],
        "image_token_index": ids[2],
        "video_token_index": ids[3],
        "eos_token_id": 2,
    }
    vlm_checkpoint("", folder, quantize, config)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(word, special=True) for word in SPECIAL])
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(ids)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    processing = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": VISION["patch_size"],
        "temporal_patch_size": VISION["temporal_patch_size"],
        "merge_size": VISION["spatial_merge_size"],
        "min_pixels": 256,
        "max_pixels": 4096,
        "size": {"shortest_edge": 256, "longest_edge": 4096},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    return folder


def png(colour: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (48, 32), kind: str = "PNG") -> bytes:
    """Returns a picture with a slope of colour, encoded."""
    image = Image.new("RGB", size, colour)
    for x in range(size[0]):
        image.putpixel((x, size[1] // 2), (x * 5 % 256, 255 - x * 3 % 256, 128))
    out = BytesIO()
    image.save(out, kind)
    return out.getvalue()
