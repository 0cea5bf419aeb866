"""Pins: what is read of a wish, who the most used are, and what does not fit or does not exist."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.errors import DoesNotFitError, UsageError
from moe_mlx.history.file import LayerHistory
from moe_mlx.history.pins import PinWish, check_pins, pins_of, read_pin
from moe_mlx.store import open_source
from moe_mlx.store.demo import demo_path


def test_a_wish_is_a_number_or_experts_by_layer():
    assert read_pin(None) is None
    assert read_pin("4") == read_pin(4) == PinWish(hottest=4)
    assert read_pin(" 3:17, 0:5") == PinWish(named=((3, 17), (0, 5)))


@pytest.mark.parametrize("text", ["", "0", "-1", "3:", "3:4:5", "3:x", "a", "3:17,", "1.5"])
def test_what_is_neither_is_refused(text: str):
    with pytest.raises(UsageError, match="give how many of each layer's most used experts"):
        read_pin(text)


def test_the_most_used_are_those_of_the_history_and_named_ones_must_exist():
    with open_source(demo_path()) as source:
        layers = source.layers
    history = tuple(
        LayerHistory(tuple(float((e * 7 + i) % 32) for e in range(32)), (0.0,) * 32, (0.0,) * 33) for i in range(8)
    )
    by_use = pins_of(PinWish(hottest=2), layers, history)
    assert by_use[0] == {9, 18} and all(
        pins == set(layer.hottest()[:2]) for pins, layer in zip(by_use, history, strict=True)
    )
    assert pins_of(PinWish(hottest=2), layers, None) == (frozenset(),) * 8
    named = pins_of(PinWish(named=((7, 31), (0, 1), (0, 2))), layers, history)
    assert [sorted(pins) for pins in named] == [[1, 2], [], [], [], [], [], [], [31]]
    with pytest.raises(UsageError, match="layer 8 has no experts; 0, 1, 2, 3, 4, 5, 6, 7 have"):
        pins_of(PinWish(named=((8, 1),)), layers, history)
    with pytest.raises(UsageError, match="the experts of layer 3 are 0 to 31"):
        pins_of(PinWish(named=((3, 32),)), layers, history)
    check_pins([4] * 8, layers, [8] * 8)
    check_pins([30] * 8, layers, [32] * 8)
    with pytest.raises(DoesNotFitError, match=r"layer 2: 5 pinned experts and 4 \(top_k\) of a token need 9 slots"):
        check_pins([4, 4, 5, 0, 0, 0, 0, 0], layers, [8] * 8)


def test_a_user_pins_a_profile_s_favourites(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    base = ["generate", "--expert-cache", "50%", "--routing", "exact", "--history", str(tmp_path), "--json", "-m", "12"]
    words = [*base, "--profile", "sums", "--prompt", "What is 12 plus 30?"]
    assert main([*words, "--pin", "3"]) == 0
    before = capsys.readouterr()
    assert "--pin 3 pins nothing: the history knows nothing of this model yet" in before.err
    assert main([*words, "--pin", "3"]) == 0
    after = capsys.readouterr()
    assert "pinned 24 experts, " in after.err
    plain, pinned = json.loads(before.out), json.loads(after.out)
    assert (plain["pinned"], pinned["pinned"]) == (0, 24)
    assert plain["tokens"] == pinned["tokens"]
    assert main([*base, "--no-history", "--pin", "3", "--prompt", "x"]) == 2
    assert main([*base, "--pin", "13", "--profile", "sums", "--prompt", "x"]) == 4
    assert "13 pinned experts and 4 (top_k) of a token need 17 slots, and there are 16" in capsys.readouterr().err


def test_pins_and_coarse_experts_are_refused_together():
    with pytest.raises(UsageError, match="pinned experts need whole slots"):
        moe_mlx.load("demo", pin="0:1", light="coarse")
    with pytest.raises(UsageError, match="needs a history"):
        moe_mlx.load("demo", pin=2)
    model, _ = moe_mlx.load("demo", pin="0:1", routing="exact", decode="readback", say=lambda line: None)
    runtime = moe_mlx.runtime_of(model)
    try:
        with pytest.raises(UsageError, match="pinned experts need whole slots"):
            runtime.set_routing(light="coarse")
    finally:
        runtime.close()
