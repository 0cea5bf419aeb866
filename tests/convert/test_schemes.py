"""Quantisation of others: each is told by its name, with what can be done, by convert, plan and the listing alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm import utils

from moe_mlx.catalogue.found import find_models
from moe_mlx.cli import main
from moe_mlx.store.schemes import scheme_of
from tests.checkpoints import make_checkpoint
from tests.convert.contents import tensors

#: Scheme: what the config says, its name in words, the parts of a weight, how transformers writes it back, if it does.
SCHEMES: dict[str, tuple[dict[str, Any], str, tuple[str, ...], str]] = {
    "fp8": (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]},
        "fp8 (e4m3)",
        ("weight", "weight_scale_inv"),
        "FineGrainedFP8Config(dequantize=True)",
    ),
    "compressed-tensors fp8": (
        {"quant_method": "compressed-tensors", "format": "float-quantized"},
        "compressed-tensors (float-quantized)",
        ("weight", "weight_scale"),
        "CompressedTensorsConfig(dequantize=True)",
    ),
    "compressed-tensors int4": (
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "compressed-tensors (pack-quantized)",
        ("weight_packed", "weight_scale", "weight_shape"),
        "CompressedTensorsConfig(dequantize=True)",
    ),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "modelopt (NVFP4)",
        ("weight", "weight_scale", "weight_scale_2", "input_scale"),
        "",
    ),
    "bitsandbytes": (
        {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4"},
        "bitsandbytes (nf4)",
        ("weight", "weight.absmax", "weight.quant_map"),
        "model.dequantize()",
    ),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "gptq", ("qweight", "qzeros", "scales", "g_idx"), ""),
    "awq": ({"quant_method": "awq", "bits": 4}, "awq", ("qweight", "qzeros", "scales"), ""),
    "mxfp4": (
        {"quant_method": "mxfp4"},
        "mxfp4",
        ("weight_blocks", "weight_scales"),
        "Mxfp4Config(dequantize=True)",
    ),
}


def published(folder: Path, scheme: str) -> Path:
    """A qwen3_moe checkpoint whose experts are modules of their own, each weight in the scheme's parts."""
    settings, _, parts, _ = SCHEMES[scheme]
    made = make_checkpoint(folder)
    given: dict[str, mx.array] = {}
    for name, array in tensors(made).items():
        if ".switch_mlp." not in name:
            given[name] = array
            continue
        for expert in range(array.shape[0]):
            module = name.replace("switch_mlp", f"experts.{expert}").removesuffix(".weight")
            given |= {f"{module}.{part}": mx.zeros((32, 8), mx.uint32) for part in parts}
    mx.eval(given)
    for path in made.glob("model*"):
        path.unlink()
    mx.save_safetensors(str(made / "model.safetensors"), given)
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return made


@pytest.mark.parametrize("scheme", SCHEMES)
def test_experts_that_mlx_lm_leaves_packed_are_told_by_scheme(
    scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = published(tmp_path / "models" / "source", scheme)
    _, words, _, back = SCHEMES[scheme]
    with pytest.raises(Exception):  # noqa: B017  what is said of mlx-lm is true
        utils.load_model(source, lazy=True)
    for verb in (["convert", "--model", str(source), "--mlx-path", str(tmp_path / "s")], ["plan", str(source)]):
        assert main(verb) == 2
        err = capsys.readouterr().err
        assert f"quantised as {words}, which mlx-lm does not unpack for qwen3_moe" in err
        assert "mlx_lm.convert cannot load it either" in err and "bf16" in err
        assert back in err and ("let transformers write it back" in err) == bool(back)
    assert not list(tmp_path.glob("s*"))
    listed = {entry.name: entry for entry in find_models([tmp_path / "models"])}["source"]
    assert words in listed.problem and not listed.to_convert
    assert main(["generate", "--model", str(source), "-p", "x"]) == 2
    assert f"whether mlx-lm unpacks {words} for this family" in capsys.readouterr().err


def test_mlx_s_own_quantisation_is_no_scheme_of_others() -> None:
    own = {"group_size": 64, "bits": 4}
    assert scheme_of({"quantization": own, "quantization_config": own}) is None
    assert scheme_of({"quantization_config": {"bits": 4}}) is None
    assert scheme_of({"text_config": {"quantization_config": {"quant_method": "fp8"}}}) == ("fp8", "fp8")
    nested = {"quantization_config": {"producer": {}, "quantization": {"quant_algo": "NVFP4"}}}
    assert scheme_of(nested) == ("modelopt", "modelopt (NVFP4)")
