"""The table of families against mlx-lm's own modules: every switch is found, under its own path, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import utils
from mlx_lm.models.switch_layers import SwitchGLU, SwitchMLP

from moe_mlx.store import open_source
from moe_mlx.store.families import ALIASES, FAMILIES
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.families.configs import FAMILIES as CONFIGS
from tests.families.scan import moe_model_files

# Speak of experts in passing, or are the dense relatives of a family that builds on their parts.
NOT_FAMILIES = {"ministral3"}


def _switches(folder: Path) -> dict[str, Any]:
    model, _ = utils.load_model(folder, lazy=True)
    return {path: m for path, m in model.named_modules() if isinstance(m, SwitchGLU | SwitchMLP)}


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("quantization", [None, AFFINE4], ids=["float32", "affine4"])
def test_every_switch_is_found(family: str, quantization: dict[str, Any] | None, tmp_path: Path) -> None:
    if quantization is not None and "+" in family:
        pytest.skip("a variant of the router changes no tensor")
    if quantization is not None and family.startswith("prism"):
        pytest.skip("packed in its own way, attention only")
    folder = tiny_checkpoint(family, tmp_path / "m", quantization=quantization)
    with open_source(folder) as source:
        layers = {layer.path: layer for layer in source.layers}
        assert [layer.index for layer in source.layers] == list(range(len(layers)))
        if family.startswith("dbrx"):
            assert all(path.endswith("ffn.experts") for path in layers)
            return
        switches = _switches(folder)
        assert set(layers) == set(switches)
        weights: dict[str, mx.array] = {}
        for shard in source.resident_shards:
            weights |= mx.load(str(shard))
        for path, switch in switches.items():
            layer = layers[path]
            assert {t.name for t in layer.tensors} == {
                f"{name}.{part}"
                for name, module in switch.children().items()
                if hasattr(module, "num_experts")  # muse_spark keeps a dense norm among them
                for part in module.parameters()
                if module[part] is not None
            }
            expert = layer.experts - 1
            buffers = [memoryview(bytearray(t.nbytes)) for t in layer.tensors]
            assert source.read_into(layer.index, expert, buffers) == layer.expert_nbytes
            for tensor, buffer in zip(layer.tensors, buffers, strict=True):
                row = np.array(weights[f"{path}.{tensor.name}"][expert].view(mx.uint8))
                assert bytes(buffer) == row.tobytes()


def test_no_family_of_mlx_lm_is_missing() -> None:
    switching = {name for name in moe_model_files() if "Switch" in _source(name)}
    assert switching <= set(FAMILIES), f"mlx-lm has new families of experts: {sorted(switching - set(FAMILIES))}"


def test_aliases_are_those_of_mlx_lm() -> None:
    remapped = {old: new for old, new in utils.MODEL_REMAPPING.items() if new in FAMILIES and old not in FAMILIES}
    assert {old: new for old, new in remapped.items() if new not in ("mistral3",)} == ALIASES


def _source(name: str) -> str:
    import mlx_lm

    return (Path(mlx_lm.__file__).parent / "models" / f"{name}.py").read_text()
