"""The product with coarse experts against the same product with weights that were dequantised by hand."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchGLU, SwitchMLP

from moe_mlx.errors import UnsupportedModelError
from moe_mlx.expert_cache.coarse_product import CoarseLinear, coarse_switch
from moe_mlx.store import codes
from moe_mlx.store.parts import HIGH_BITS, Halves

EXPERTS, WIDTH, HIDDEN = 5, 128, 64


def high_words(weight: mx.array, halves: Halves) -> mx.array:
    """Returns packed words `[E, O, n]` with the high bits of every code alone."""
    rows = np.array(weight).reshape(-1, weight.shape[-1])
    whole = np.ascontiguousarray(rows).view(np.uint8)
    high, low = (np.zeros((len(whole), whole.shape[1] * bits // halves.bits), np.uint8) for bits in parts_of(halves))
    codes.split(halves, whole, high, low)
    return mx.array(high.view(np.uint32)).reshape(*weight.shape[:-1], -1)


def parts_of(halves: Halves) -> tuple[int, int]:
    return halves.high_bits, halves.low_bits


def coarse_weights(linear: Any, halves: Halves) -> mx.array:
    """Returns `[E, O, I]`: what a coarse expert stands for, from the definition."""
    factor = 1 << halves.low_bits
    whole = {"group_size": linear.group_size, "bits": linear.bits}
    ones, none = mx.ones_like(linear.scales), mx.zeros_like(linear.scales)
    q = mx.dequantize(linear.weight, ones, none, **whole)
    middle = mx.floor(q / factor) * factor + (factor - 1) / 2
    spread = [mx.repeat(of, linear.group_size, axis=-1) for of in (linear.scales, linear.biases)]
    return spread[0] * middle + spread[1]


def install(coarse: CoarseLinear, whole: Any, halves: Halves) -> None:
    coarse.weight = high_words(whole.weight, halves)
    for name in ("scales", "biases", "bias"):
        if name in whole:
            coarse[name] = whole[name]


@pytest.mark.parametrize("bits", list(HIGH_BITS))
@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("biased", [False, True])
def test_it_is_the_product_with_the_middle_of_each_cell(bits: int, group: int, biased: bool):
    mx.random.seed(bits + group)
    whole, halves = QuantizedSwitchLinear(WIDTH, HIDDEN, EXPERTS, biased, group, bits), Halves(bits, HIGH_BITS[bits])
    if biased:
        whole.bias = mx.random.normal((EXPERTS, HIDDEN))
    coarse = CoarseLinear(whole, halves)
    install(coarse, whole, halves)
    x, indices = mx.random.normal((1, 1, 1, 1, WIDTH)), mx.array([[[3, 0, 4, 4]]], dtype=mx.uint32)
    found = coarse(x, indices)
    wanted = mx.stack([x[0, 0, 0] @ weight.T for weight in coarse_weights(whole, halves)[indices.reshape(-1)]])
    if biased:
        wanted = wanted + whole.bias[indices.reshape(-1)][:, None]
    assert found.shape == whole(x, indices).shape
    assert mx.allclose(found.reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)
    assert not mx.allclose(found, whole(x, indices), rtol=1e-2, atol=1e-2), "no bit was left out"


class _Plain:
    def __init__(self, weights: mx.array) -> None:
        self.weights = weights

    def __call__(self, x: mx.array, *_: Any, **__: Any) -> mx.array:
        return x @ self.weights.swapaxes(-1, -2)


@pytest.mark.parametrize("kind", [SwitchGLU, SwitchMLP])
def test_a_switch_is_copied_with_all_that_it_holds(kind: type):
    whole, halves = kind(WIDTH, HIDDEN, EXPERTS), Halves(4, 2)
    import mlx.nn as nn

    nn.quantize(whole, 32, 4)
    names = [name for name in whole if isinstance(whole[name], QuantizedSwitchLinear)]
    coarse = coarse_switch(whole, names, {f"{name}.weight": halves for name in names})
    for name in names:
        install(coarse[name], whole[name], halves)
    x, indices = mx.random.normal((1, 1, WIDTH)), mx.array([[[1, 2, 2]]], dtype=mx.uint32)
    found = coarse(x, indices)

    def dequantised(name: str) -> mx.array:
        return coarse_weights(whole[name], halves)[indices.reshape(-1)]

    for name in names:  # the same module, resident and not quantised, with the weights by hand
        whole[name] = _Plain(dequantised(name))
    assert mx.allclose(found, whole(x, indices), rtol=1e-3, atol=1e-4)
    assert type(coarse) is kind and coarse.activation is whole.activation


def test_half_precision_costs_little():
    """Rounding to bfloat16 on the way stays far below what the missing bits cost."""
    mx.random.seed(4)
    whole, halves = QuantizedSwitchLinear(1024, 256, 2, False, 64, 4), Halves(4, 2)
    wide = CoarseLinear(whole, halves)
    install(wide, whole, halves)
    narrow = CoarseLinear(whole, halves)
    install(narrow, whole, halves)
    for name in ("scales", "biases"):
        narrow[name] = narrow[name].astype(mx.bfloat16)
        wide[name] = narrow[name].astype(mx.float32)
        whole[name] = wide[name]
    x, indices = mx.random.normal((1, 1, 1, 1, 1024)).astype(mx.bfloat16), mx.array([[[0, 1]]], dtype=mx.uint32)
    exact, reference = whole(x.astype(mx.float32), indices), wide(x.astype(mx.float32), indices)
    rounding = mx.linalg.norm((narrow(x, indices) - reference).reshape(-1))
    missing = mx.linalg.norm((reference - exact).reshape(-1))
    assert rounding.item() < 0.1 * missing.item()


def test_what_is_not_affine_is_refused_by_name():
    whole = SwitchGLU(WIDTH, HIDDEN, EXPERTS)
    with pytest.raises(UnsupportedModelError, match=r"up_proj\.weight is no affine weight of 4 bits"):
        coarse_switch(whole, ["up_proj"], {"up_proj.weight": Halves(4, 2)})
