"""Late and coarse experts on a GPU: both ways of decoding see the same banks; nothing is lost where nothing is light.

Written for Metal and run on none so far.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm
import pytest

import moe_mlx
from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.metal.logits import CLOSE, decoded, largest_difference

COUNTED = ("hits", "misses", "bytes_read", "late", "coarse", "promotions", "coarse_bytes", "rest_bytes")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "model", quantization=AFFINE4, num_hidden_layers=4, num_experts_per_tok=4)
    convert(folder / "model", folder / "store", nested=True)
    return folder / "store"


@pytest.fixture
def run(store: Path) -> Iterator[Any]:
    """A way to decode and what light experts do -> logits of three turns, counts."""
    runtimes = []

    def made(way: str, **light: Any) -> tuple[Any, dict[str, int]]:
        model, _ = moe_mlx.load(
            store, expert_cache="62.5%", routing="exact", decode=way, say=lambda line: None, **light
        )
        runtimes.append(moe_mlx.runtime_of(model))
        logits, totals = decoded(model, turns=3), moe_mlx.stats(model).decode
        return logits, {name: getattr(totals, name) for name in COUNTED}

    yield made
    for runtime in runtimes:
        runtime.close()


@pytest.mark.parametrize("form", ["2", "2-down4"])
@pytest.mark.parametrize("light", ["late", "coarse", "late-coarse"])
def test_both_ways_are_alike(run: Any, light: str, form: str):
    options = {"light": light, "light_beyond": 0.3, "light_form": form}
    (ours, counted), (theirs, expected) = (run(way, **options) for way in ("native", "readback"))
    assert largest_difference(ours, theirs) == 0  # the same kernels over the same banks
    assert counted == expected
    assert counted["late" if light == "late" else "coarse"] > 0, "nobody was light: the comparison says nothing"


@pytest.mark.parametrize("way", ["native", "readback"])
def test_where_nothing_is_light_it_is_close_to_mlx_lm(run: Any, store: Path, way: str):
    """Experts are promoted and demoted all the same."""
    ours, counted = run(way, light="coarse", light_beyond=1.0)
    assert largest_difference(ours, decoded(mlx_lm.load(str(store.parent / "model"))[0], turns=3)) < CLOSE
    assert counted["promotions"] > 0 and counted["coarse"] == 0
