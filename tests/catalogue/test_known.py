"""The known models are the published ones: mlx-lm's own classes, built from each config, have the table's sizes."""

import math

import pytest

from moe_mlx.catalogue.known import KnownModel, known_models, known_named
from moe_mlx.cli import main

#: GLM's publisher rounds down; the others are within half a percent.
ROUNDED = 0.01


def built(model: KnownModel):
    """mlx-lm's class for the config, quantised as the repository is; nothing is computed."""
    from mlx import nn
    from mlx_lm.utils import _get_classes

    config = dict(model.shape.config)
    model_class, args_class = _get_classes(config)
    skeleton = model_class(args_class.from_dict(config))
    count = sum(array.size for _, array in arrays(skeleton))
    mxfp4 = model.shape.config["model_type"] == "gpt_oss"
    own = getattr(skeleton, "quant_predicate", None)

    def how(path: str, module: object):
        if not hasattr(module, "to_quantized"):
            return False
        if mxfp4:
            return {"group_size": 32, "bits": 4, "mode": "mxfp4"} if "mlp.experts" in path else True
        return own(path, module) if own else True

    nn.quantize(skeleton, group_size=64, bits=8 if mxfp4 else 4, class_predicate=how)
    return skeleton, count


def arrays(skeleton):
    from mlx.utils import tree_flatten

    return tree_flatten(skeleton.parameters())


def stored_nbytes(name: str, array) -> int:
    """Floating-point weights are stored in 16 bits, but for those that models keep in 32."""
    if "uint" in str(array.dtype) or "correction_bias" in name or "A_log" in name:
        return array.nbytes
    return array.size * 2


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.name)
def test_sizes_are_those_of_mlx_lm_s_own_class(model: KnownModel):
    skeleton, count = built(model)
    assert count == pytest.approx(model.parameters, rel=ROUNDED)
    paths = {layer.path for layer in model.shape.layers}
    routed = {name for name, _ in arrays(skeleton) if any(name.startswith(f"{path}.") for path in paths)}
    nbytes = {name: stored_nbytes(name, array) for name, array in arrays(skeleton)}
    assert model.shape.experts_nbytes == sum(nbytes[name] for name in routed)
    assert model.shape.resident_nbytes == sum(n for name, n in nbytes.items() if name not in routed)
    layer, shapes = model.shape.layers[0], {name: tuple(array.shape) for name, array in arrays(skeleton)}
    assert all(shapes[f"{layer.path}.{t.name}"] == (layer.experts, *t.shape) for t in layer.tensors)
    assert math.prod(layer.tensors[0].shape) > 0 and len(routed) == len(paths) * len(layer.tensors)


def test_a_name_is_found_as_people_write_it():
    assert known_named("QWEN3-30b-a3b").repo == known_named("mlx-community/qwen3-30b-a3b-4bit").repo
    assert known_named("Qwen3-30B-A3B-4bit") is not None and known_named("qwen") is None


@pytest.fixture
def no_network(monkeypatch):
    """A hub nobody answers for, at once."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def test_a_known_model_is_planned_without_a_network(no_network, capsys):
    assert main(["plan", "mlx-community/GLM-4.5-Air-4bit", "--memory", "64GB"]) == 0
    told = capsys.readouterr()
    assert "published shape" in told.err and "45 MoE layers x 128 experts" in told.out
    assert main(["plan", "glm-4.5-air", "--memory", "64GB"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["some/thing", "qwen3-30b"])
def test_an_unknown_name_without_a_network_offers_the_known(no_network, capsys, name):
    assert main(["plan", name]) == 3
    told = capsys.readouterr().err
    assert "Qwen3-30B-A3B, " in told and "Kimi-K2" in told
    assert ("Did you mean Qwen3-30B-A3B?" in told) == (name != "some/thing")
