"""Every MoE family of mlx-lm: exact routing bit for bit, and cache-aware routing held to the model file's own code."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

import moe_mlx
from moe_mlx.cli import main
from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.families.registry import BUILT_ON, UNTESTED, families
from moe_mlx.store.families import FAMILIES as STORED
from moe_mlx_convert import convert
from tests.families.calls import CALLS, STEPS, answer, same
from tests.families.configs import FAMILIES, config
from tests.families.few import CHEAP, by_day, in_both_forms
from tests.families.oracle import cache_prior, oracle_in
from tests.families.scan import moe_model_files
from tests.golden.faithful import Faithful, recompute_weights

TABLE = {row.family: row for row in families() if row.built_by == "mlx-lm"}
RUNNABLE = [name for name in FAMILIES if name.partition("+")[0] not in UNTESTED]
ROUTABLE = [name for name in RUNNABLE if TABLE[name.partition("+")[0]].cache_aware_tested]
#: Linear attention takes one to two seconds a family: by day qwen3_next and kimi_linear stand for what these share.
AT_NIGHT = {"bailing_moe_v3", "kimi_k3", "kimi_linear+softmax", "prism_hadamard_qwen35", "qwen3_5", "qwen3_5_moe"}
#: Where a switch is made or quantised in another way: gated or not, with biases, identity experts, latent attention.
SWITCHES = ("deepseek_v3", "gpt_oss", "longcat_flash", "phixtral")


def floor(folder: Path) -> str:
    """The smallest cap: as many slots as the layer with the largest top-k chooses."""
    with moe_mlx.store.open_source(folder) as source:
        return f"{100 * max(layer.top_k / layer.experts for layer in source.layers)}%"


@pytest.mark.parametrize(("name", "quantization"), in_both_forms(RUNNABLE, set(RUNNABLE) - AT_NIGHT, SWITCHES))
def test_exact_routing_is_bit_equal(
    family_checkpoint: Any, reference: Any, capped: Any, name: str, quantization: Any
) -> None:
    """In place at the smallest cap."""
    folder = family_checkpoint(name, quantization)
    assert same(reference(name, quantization), answer(capped(folder, floor(folder), routing="exact")))


@pytest.mark.rows_by_day(6)
@pytest.mark.parametrize(("name", "quantization"), in_both_forms(RUNNABLE, CHEAP, SWITCHES))
def test_a_store_is_bit_equal(
    family_checkpoint: Any, reference: Any, capped: Any, tmp_path: Path, name: str, quantization: Any
) -> None:
    convert(str(family_checkpoint(name, quantization)), tmp_path / "store")
    assert same(reference(name, quantization), answer(capped(tmp_path / "store", "50%", routing="exact")))


@pytest.mark.rows_by_day(4)
@pytest.mark.parametrize(("name", "quantization"), in_both_forms(RUNNABLE, CHEAP, ()))
def test_neutral_routing_is_bit_equal(
    family_checkpoint: Any, reference: Any, capped: Any, monkeypatch: Any, name: str, quantization: Any
) -> None:
    """Strength 0, everything resident, and routing by a policy that happens to change nothing."""
    folder, theirs = family_checkpoint(name, quantization), reference(name, quantization)
    model = capped(folder, "50%", routing="cache-prior", route_lambda=0.0)
    assert same(theirs, answer(model))
    if TABLE[name.partition("+")[0]].cache_aware:
        layers = moe_mlx.runtime_of(model).layers
        for layer in layers:
            layer.policy = Faithful()
        calls = recompute_weights(monkeypatch)
        assert same(theirs, answer(model))
        assert len(calls) == len(STEPS) * len(layers)
    if quantization is None:
        assert same(theirs, answer(capped(folder, "100%", routing="cache-prior", route_lambda=0.9)))


@pytest.mark.rows_by_day(5)
@pytest.mark.parametrize("name", by_day((name for name in ROUTABLE if name != "phimoe"), CHEAP))
def test_cache_aware_routing_is_the_rule_on_the_model_s_own_scores(
    family_checkpoint: Any, capped: Any, monkeypatch: Any, name: str
) -> None:
    """The rule in NumPy, on what the model file ranks by; its own code then weighs what was chosen, bit for bit."""
    folder, family = family_checkpoint(name), name.partition("+")[0]
    lam, softmax = 0.35, ranks_by_logits(name)
    model = capped(folder, "50%", routing="cache-prior", route_lambda=lam)
    layers = moe_mlx.runtime_of(model).layers
    routed = note_choices(monkeypatch)
    ours = answer(model)
    swapped = moe_mlx.stats(model).decode.swapped
    identities = config(name).get("zero_expert_num", 0)
    with oracle_in(BUILT_ON.get(family, family), layers[0].spec.experts + identities) as oracle:
        oracle.told = [chosen for _, chosen in routed]
        assert same(ours, answer(load_model(folder)[0]))

    ranges: list[list[float]] = [[] for _ in layers]
    changed, seen, events = 0, iter(oracle.seen), iter(routed)
    for tokens in CALLS:
        for layer in layers:
            for _ in tokens:
                ranked, raw, exact = next(seen)
                scores = np.log(raw.astype(np.float64)) if softmax else raw.astype(np.float64)
                ranges[layer.spec.index].append(float(scores.max() - scores.min()))
            if len(tokens) > 1:
                continue
            resident, chosen = next(events)
            present = np.append(resident, np.ones(identities, dtype=bool))
            delta = float(np.mean(ranges[layer.spec.index]))
            top_j = 1 if len(exact) <= 2 else 2
            assert chosen == cache_prior(scores, ranked == raw, exact, present, delta, lam, top_j)
            changed += len(set(chosen) - set(exact))
    assert next(seen, None) is next(events, None) is None
    for layer in layers:
        table, spans = layer.table, ranges[layer.spec.index]
        assert table.state.range_tokens == len(spans)
        assert table.state.range_sum == pytest.approx(sum(spans), rel=1e-5)
    assert changed == swapped > 0


@pytest.mark.rows_by_day(5)
@pytest.mark.parametrize("name", by_day(RUNNABLE, CHEAP))
def test_decode_in_the_graph_chooses_and_counts_as_read_back_does(
    family_checkpoint: Any, reference: Any, capped: Any, name: str
) -> None:
    folder = family_checkpoint(name)
    try:
        exact = capped(folder, "50%", routing="exact", decode="native")
    except UsageError as error:
        pytest.skip(str(error))
    assert same(reference(name), answer(exact))
    runs = [capped(folder, "50%", routing="cache-prior", route_lambda=0.35, decode=d) for d in ("native", "readback")]
    assert same(answer(runs[0]), answer(runs[1]))
    native, read_back = (moe_mlx.stats(model).decode for model in runs)
    for count in ("hits", "misses", "swapped", "bytes_read", "choices"):
        assert getattr(native, count) == getattr(read_back, count), count
    assert native.weight_moved == pytest.approx(read_back.weight_moved)


def note_choices(monkeypatch: Any) -> list[tuple[np.ndarray, list[int]]]:
    """Notes per routed token what was resident before it and what was chosen."""
    routed: list[tuple[np.ndarray, list[int]]] = []
    original = CappedSwitch.select

    def select(self: CappedSwitch, *args: Any, **kwargs: Any) -> mx.array:
        resident = self.cache.resident_mask().copy()
        chosen = original(self, *args, **kwargs)
        routed.append((resident, np.array(chosen).reshape(-1).tolist()))
        return chosen

    monkeypatch.setattr(CappedSwitch, "select", select)
    return routed


def ranks_by_logits(name: str) -> bool:
    """Whether the file ranks by a softmax without a bias, so that its logits are the logarithm of what it ranks by."""
    family, _, variant = name.partition("+")
    if family in ("bailing_moe", "ernie4_5_moe"):
        return variant == "softmax" or (family == "ernie4_5_moe" and not variant)
    return TABLE[family].kind.startswith("softmax") and "bias" not in TABLE[family].kind


def test_a_new_moe_file_of_mlx_lm_has_a_row_everywhere() -> None:
    found = moe_model_files()
    rows = {"registry": set(TABLE), "store": set(STORED), "configs": {name.partition("+")[0] for name in FAMILIES}}
    for where, known in rows.items():
        assert found == known, f"mlx-lm and the {where} differ in {sorted(found ^ known)}"


def test_the_verb_prints_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families"]) == 0
    text = capsys.readouterr().out
    assert main(["families", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["family"] for row in rows] == [row.family for row in families()]
    assert {row["built_by"] for row in rows} == {"mlx-lm", "mlx-vlm"}
    assert all(row["family"] in text and row["kind"] in text for row in rows)


def test_the_page_of_families_is_what_the_verb_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["families", "--markdown"]) == 0
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == page, "moe-mlx families --markdown > docs/families.md"
