"""Late experts in every family: what a block leaves out and what it adds later are together its own output."""

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.expert_cache import lateness
from moe_mlx.families.registry import families
from tests.families.calls import answer, same
from tests.families.configs import FAMILIES
from tests.families.few import CHEAP, by_day

TABLE = {row.family: row for row in families() if row.built_by == "mlx-lm"}
ROUTABLE = [name for name in FAMILIES if TABLE[name.partition("+")[0]].cache_aware_tested]
LATE = [name for name in ROUTABLE if TABLE[name.partition("+")[0]].late]
#: Of those that wait, by day.
WAITING = [name for name in ROUTABLE if name not in LATE][:3]

TOKENS = [(29 * place) % 83 + 5 for place in range(24)]


def path_of(model: Any, cache: Any) -> str:
    """The path of the block that holds a layer's switch."""
    blocks = model.named_modules()
    return next(path for path, block in blocks if getattr(block, "lateness", None) is cache.lateness)


@pytest.mark.rows_by_day(4)
@pytest.mark.parametrize("name", by_day(LATE, CHEAP))
def test_a_block_without_its_late_experts_and_those_are_the_block(
    family_checkpoint: Any, capped: Any, monkeypatch: Any, name: str
):
    folder = family_checkpoint(name)
    with moe_mlx.store.open_source(folder) as source:
        floor = max(layer.top_k / layer.experts for layer in source.layers)
    model = capped(folder, f"{100 * floor}%", routing="exact", light="late", light_beyond=0.0)
    layers = moe_mlx.runtime_of(model).layers
    inputs: dict[tuple[int, int], tuple[mx.array, mx.array]] = {}
    later: dict[tuple[int, int], mx.array] = {}
    join, output = lateness.Lateness.join, lateness.late_output

    def noted(self: Any, out: mx.array, finish: Any) -> mx.array:
        if self.owed is not None and self.owed.finish is None:
            inputs[self.owed.step, self._cache.spec.index] = (finish.args[1], out)
        return join(self, out, finish)

    def given(cache: Any, owed: Any, slots: mx.array) -> mx.array:
        later[owed.step, cache.spec.index] = output(cache, owed, slots)
        return later[owed.step, cache.spec.index]

    monkeypatch.setattr(lateness.Lateness, "join", noted)
    monkeypatch.setattr(lateness, "late_output", given)
    cache = make_prompt_cache(model)
    for token in TOKENS:
        mx.eval(model(mx.array([[token]]), cache=cache))
    assert moe_mlx.stats(model).decode.late > 0
    assert set(inputs) == set(later)
    assert len(inputs) == (len(layers) - 1) * len(TOKENS)
    reference = dict(load_model(folder)[0].named_modules())
    moved = 0
    for (step, index), (x, out) in inputs.items():
        whole = reference[path_of(model, layers[index])](x)
        part = later[step, index].reshape(out.shape)
        np.testing.assert_allclose(np.array(out + part), np.array(whole), rtol=1e-4, atol=1e-5)
        moved += bool(mx.any(mx.abs(part) > 1e-5))
    assert moved > 0


@pytest.mark.parametrize("name", by_day((name for name in ROUTABLE if name not in LATE), WAITING))
def test_a_family_that_cannot_add_them_waits_and_says_why(
    family_checkpoint: Any, reference: Any, capped: Any, name: str
):
    said: list[str] = []
    model = capped(family_checkpoint(name), "50%", routing="exact", light="late", say=said.append)
    assert same(reference(name), answer(model))
    assert moe_mlx.stats(model).decode.late == 0
    reason = TABLE[name.partition("+")[0]].why_waits
    assert reason and any(reason in line for line in said)


def test_every_row_says_whether_its_experts_may_be_late():
    assert all(row.late != bool(row.why_waits) for row in families())
