"""Turns a training run into an ordinary quantised MLX checkpoint, with tokenizer and held-out data beside it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from demo_data import heldout_documents, heldout_prompts, heldout_stories
from mlx_lm.models.qwen3_moe import Model, ModelArgs
from mlx_lm.utils import quantize_model, save_config, save_model
from transformers import PreTrainedTokenizerFast

CONTEXT = 2048
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def config_of(shape: dict[str, Any], end: int, pad: int) -> dict[str, Any]:
    """The config.json of a qwen3_moe model of this shape."""
    return {
        **shape,
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "intermediate_size": 4 * shape["hidden_size"],
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "tie_word_embeddings": True,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "silu",
        "attention_bias": False,
        "bos_token_id": None,
        "eos_token_id": end,
        "pad_token_id": pad,
        "torch_dtype": "float32",
    }


def export_model(weights: Path, config: dict[str, Any], target: Path, bits: int, group_size: int) -> None:
    """Quantises with mlx-lm and writes the weights and the config.

    The router keeps the precision that mlx-lm gives it, and the embedding, which is the head too, 8 bits.
    """
    model = Model(ModelArgs.from_dict(config))
    with np.load(weights) as arrays:
        model.load_weights([(name, mx.array(arrays[name])) for name in arrays.files])

    def precision(path: str, module: Any) -> bool | dict[str, Any]:
        if path.endswith("embed_tokens"):
            return {"group_size": 64, "bits": 8}
        chosen: bool | dict[str, Any] = model.quant_predicate(path, module)
        return chosen

    if bits < 32:
        model, config = quantize_model(model, config, group_size, bits, quant_predicate=precision)
    mx.eval(model.parameters())
    save_model(target, model)
    save_config(config, target / "config.json")
    ends = {"eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    (target / "generation_config.json").write_text(json.dumps(ends, indent=2) + "\n", encoding="utf-8")


def export_tokenizer(source: Path, target: Path) -> PreTrainedTokenizerFast:
    """Writes the tokenizer with its chat template and special tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source),
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(target, save_jinja_files=False)
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return tokenizer


def export_heldout(target: Path) -> None:
    """Writes the held-out prompts with their answers, the story prompts, and the text for perplexity."""
    target.mkdir(parents=True, exist_ok=True)
    rows = [{"skill": turn.skill, "prompt": turn.user, "answer": turn.answer} for turn in heldout_prompts()]
    stories = [
        {
            "prompt": turn.user,
            "name": turn.memo[0],
            "animal": turn.memo[1],
            "thing": turn.memo[2],
            "place": turn.memo[3].split()[-1],
        }
        for turn in heldout_stories()
    ]
    for name, lines in (("prompts.jsonl", rows), ("stories.jsonl", stories)):
        (target / name).write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
    (target / "text.txt").write_text("\n\n".join(heldout_documents()) + "\n", encoding="utf-8")


def main() -> None:
    """Exports a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder that train_demo.py wrote")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent / "demo")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 8, 32))
    parser.add_argument("--group-size", type=int, default=32)
    options = parser.parse_args()
    options.target.mkdir(parents=True, exist_ok=True)
    tokenizer = export_tokenizer(options.run / "tokenizer.json", options.target)
    shape = json.loads((options.run / "shape.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer.get_vocab()
    config = config_of(shape, vocabulary["<|end|>"], vocabulary["<|pad|>"])
    export_model(options.run / "weights.npz", config, options.target, options.bits, options.group_size)
    export_heldout(options.target / "heldout")
    total = sum(path.stat().st_size for path in options.target.rglob("*") if path.is_file())
    print(f"{options.target}: {total / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
