"""Quantisation that is not MLX's own: what a config calls it, and what can be done where mlx-lm leaves it packed.

Some families' `sanitize` unpacks some schemes (deepseek_v3's fp8 blocks, gpt_oss's mxfp4); such checkpoints convert as
they are. What it leaves packed, mlx_lm.convert cannot load either: it goes through the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_mlx.errors import UnsupportedModelError

#: What transformers writes back to bf16, by `quant_method`: how it is asked to.
_BACK = {
    "fp8": "load it with FineGrainedFP8Config(dequantize=True)",
    "compressed-tensors": "load it with CompressedTensorsConfig(dequantize=True)",
    "mxfp4": "load it with Mxfp4Config(dequantize=True)",
    "bitsandbytes": "load it and call model.dequantize()",
}
#: Where a config says more of a scheme than its name.
_KINDS = ("format", "quant_algo", "bnb_4bit_quant_type", "fmt")


class UnpackedError(UnsupportedModelError):
    """Experts in a form that mlx-lm does not bring into its own."""


def scheme_of(config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns the `quant_method` that a config names and the scheme in words; None for MLX's own quantisation, or none.

    Args:
        config: A model's config.json; multimodal ones name it in `text_config`.
    """
    nested = config.get("text_config")
    for scope in (config, nested if isinstance(nested, Mapping) else {}):
        found = scope.get("quantization_config")
        if "quantization" in scope or not isinstance(found, Mapping):
            continue
        inner = found.get("quantization")  # ModelOpt nests it in files of its own
        settings = {**found, **inner} if isinstance(inner, Mapping) else found
        method = settings.get("quant_method") or ("modelopt" if "quant_algo" in settings else None)
        if not isinstance(method, str):
            continue
        kind = next((settings[key] for key in _KINDS if isinstance(settings.get(key), str)), "")
        return method[:40], f"{method[:40]} ({kind[:40]})" if kind else method[:40]
    return None


def unpacked(where: Path, config: Mapping[str, Any], example: str) -> UnpackedError:
    """Returns the error for experts that mlx-lm leaves as they are: which, why, and what can be done.

    Args:
        where: The checkpoint.
        config: Its config.json.
        example: A tensor that was left.
    """
    family, found = str(config.get("model_type"))[:40], scheme_of(config)
    if found is None:
        return UnpackedError(
            f"{where}: mlx-lm leaves {example!r} as it is, so the experts of this {family} cannot be laid out, and "
            "mlx_lm.convert cannot load them either. Take an MLX checkpoint of this model, or its publisher's bf16 one."
        )
    method, words = found
    back = f", or let transformers write it back ({_BACK[method]}, then save_pretrained)" if method in _BACK else ""
    return UnpackedError(
        f"{where}: its experts are quantised as {words}, which mlx-lm does not unpack for {family} (it leaves "
        f"{example!r}); mlx_lm.convert cannot load it either. Take an MLX checkpoint of this model, or its bf16 "
        f"original{back}: `moe-mlx convert` takes that, `mlx_lm.convert -q` quantises it first."
    )
