"""Tiny vision models whose processors are mlx-vlm's own, made of small local files; and pictures to show them."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.families.configs import COMMON
from tests.families.pictured import PICTURED
from tests.vlm_checkpoints import vlm_checkpoint

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}SHOWN{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def pictured_checkpoint(name: str, folder: Path, quantize: dict[str, Any] | None = None) -> Path:
    """Makes a tiny vision model with tokenizer, template and processor.

    Args:
        name: A row of `PICTURED`.
        folder: Where to write.
        quantize: As for `vlm_checkpoint`.
    """
    row = PICTURED[name]
    config = {"model_type": name, "vocab_size": COMMON["vocab_size"], "eos_token_id": 2, **row.config}
    vlm_checkpoint("", folder, quantize, {**config, **dict.fromkeys(row.ids, 3)})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(word, special=True) for word in row.special])
    tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), COMMON["vocab_size"])])  # all have a text
    written = json.loads((folder / "config.json").read_text())
    numbers = {key: tokenizer.convert_tokens_to_ids(word) for key, word in row.ids.items()}
    assert max(numbers.values()) < COMMON["vocab_size"]
    (folder / "config.json").write_text(json.dumps({**written, **numbers}))
    tokenizer.chat_template = TEMPLATE.replace("SHOWN", row.shown)
    tokenizer.save_pretrained(folder)
    if row.named:
        file = folder / "tokenizer_config.json"
        told = json.loads(file.read_text())
        file.write_text(json.dumps({**told, "extra_special_tokens": row.named}))
    (folder / "preprocessor_config.json").write_text(json.dumps(row.file))
    return folder


def qwen3_vl_checkpoint(folder: Path, quantize: dict[str, Any] | None = None) -> Path:
    """Makes a tiny Qwen3-VL-MoE, which both libraries load."""
    return pictured_checkpoint("qwen3_vl_moe", folder, quantize)


def png(colour: tuple[int, int, int] = (200, 30, 60), size: tuple[int, int] = (48, 32), kind: str = "PNG") -> bytes:
    """Returns a picture with a slope of colour, encoded."""
    image = Image.new("RGB", size, colour)
    for x in range(size[0]):
        image.putpixel((x, size[1] // 2), (x * 5 % 256, 255 - x * 3 % 256, 128))
    out = BytesIO()
    image.save(out, kind)
    return out.getvalue()
