"""Which weights of a layer's experts can be cut into halves, by what a config says of their quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, UnsupportedModelError
from moe_mlx.store.parts import HIGH_BITS, Halves
from moe_mlx.store.spec import ExpertLayer, TensorSpec

_WEIGHT = ".weight"


def halves_of(layer: ExpertLayer, config: Mapping[str, Any], where: Path) -> dict[int, Halves]:
    """Returns how to cut every weight of a layer's experts, by its number in `layer.tensors`.

    Args:
        layer: The layer.
        config: The model's config.json.
        where: The model, named in errors.

    Raises:
        UnsupportedModelError: A weight is not affine, or of bits whose halves MLX does not run; it is named.
        StoreCorruptError: The config's bits do not fit the shapes.
    """
    specs = {spec.name: spec for spec in layer.tensors}
    found = {}
    for number, spec in enumerate(layer.tensors):
        if spec.name.endswith(_WEIGHT):
            projection = spec.name.removesuffix(_WEIGHT)
            found[number] = _cut(f"{layer.path}.{projection}", spec, projection, specs, config, where)
    return found


def _cut(
    path: str,
    weight: TensorSpec,
    projection: str,
    specs: Mapping[str, TensorSpec],
    config: Mapping[str, Any],
    where: Path,
) -> Halves:
    scales, biases = specs.get(f"{projection}.scales"), specs.get(f"{projection}.biases")
    said = quantization_of(config, path)
    if scales is None:
        raise _refused(where, path, f"unquantised ({weight.dtype})")
    if biases is None or said.get("mode", "affine") != "affine":
        raise _refused(where, path, f"quantised as {str(said.get('mode') or 'something without biases')[:40]}")
    bits, group = said.get("bits"), said.get("group_size")
    if type(bits) is not int or type(group) is not int:
        raise _refused(where, path, "quantised with bits that config.json does not say")
    if bits not in HIGH_BITS:
        raise _refused(where, path, f"quantised to {str(bits)[:40]} bits")
    inputs = group * scales.shape[-1] if scales.shape else 0
    if len(weight.shape) != 2 or inputs * bits != weight.shape[-1] * 32 or biases.shape != scales.shape:
        raise StoreCorruptError(
            f"{where}: {path} is quantised to {bits} bits in groups of {str(group)[:40]} by config.json, which its "
            f"shapes {list(weight.shape)} and {list(scales.shape)} do not fit. Fetch the model again."
        )
    return Halves(bits, HIGH_BITS[bits])


def quantization_of(config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Returns what a config says of one weight: its own entry or the model's, as mlx-lm reads them."""
    for key in ("quantization", "quantization_config"):
        said = config.get(key)
        if isinstance(said, Mapping):
            own = said.get(path)
            return own if isinstance(own, Mapping) else said
    return {}


def _refused(where: Path, path: str, how: str) -> UnsupportedModelError:
    bits = ", ".join(str(n) for n in HIGH_BITS)
    return UnsupportedModelError(
        f"{where}: {path} is {how}; only affine weights of {bits} bits are cut into halves. Convert without --nested."
    )
