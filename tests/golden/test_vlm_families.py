"""Every MoE family that mlx-vlm builds here: exact routing bit for bit against mlx-vlm, and cache-aware routing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx_vlm", reason="mlx-vlm is not installed: the extra `vlm`")

import moe_mlx
from moe_mlx.errors import UnsupportedModelError, UsageError
from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.families.registry import SEES_NOTHING, families
from moe_mlx.loading.proof import prove
from moe_mlx.store.families import ALIASES, FAMILIES, family_of
from moe_mlx.store.vlm_families import VLM_FAMILIES, VLM_LEFT, WITH_PICTURES
from moe_mlx.vlm.installed import VERSION, installed
from moe_mlx_convert import convert
from tests.families.calls import Outputs, answer, same
from tests.families.few import by_day, in_both_forms
from tests.families.vlm_configs import VLM_CONFIGS
from tests.families.vlm_scan import models, moe_packages
from tests.golden.faithful import check_routing
from tests.vlm_checkpoints import small_towers, vlm_answer, vlm_checkpoint

TABLE = {row.family: row for row in families() if row.built_by == "mlx-vlm"}
#: One a kind of cache, of switch and of what is made one.
SAMPLE = ("deepseek_v4", "glm4v_moe", "moondream3")
#: Families that take long, or run another's block; they run at night.
DEAR = (
    "cohere2_moe",
    "deepseekocr_2",
    "glm5_next",
    "minicpmv4_7",
    "minimax_m3+apart",
    "qwen3_5_moe_text",
    "qwen3_omni_moe",
    "qwen4_exp",
    "step3p7",
    "unlimited_ocr",
)
ROUTABLE = [name for name in VLM_CONFIGS if TABLE[name.partition("+")[0]].cache_aware]


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        small_towers(patch)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A row and, if any, how it is quantised -> its folder, and what mlx-vlm answers."""
    root, known = tmp_path_factory.mktemp("vlm"), {}

    def make(name: str, quantize: dict[str, Any] | None = None) -> tuple[Path, Outputs]:
        key = f"{name}-{quantize is not None}"
        if key not in known:
            folder = vlm_checkpoint(name, root / key, quantize)
            known[key] = folder, vlm_answer(folder)
        return known[key]

    return make


def floor(folder: Path) -> str:
    with moe_mlx.store.open_source(folder) as source:
        return f"{100 * max(layer.top_k / layer.experts for layer in source.layers)}%"


@pytest.mark.parametrize(("name", "quantize"), in_both_forms(VLM_CONFIGS, set(VLM_CONFIGS) - set(DEAR), ("glm4v_moe",)))
def test_exact_routing_is_bit_equal_to_mlx_vlm(made: Any, capped: Any, name: str, quantize: Any) -> None:
    """In place at the smallest cap."""
    folder, theirs = made(name, quantize)
    assert same(theirs, answer(capped(folder, floor(folder), routing="exact")))


@pytest.mark.parametrize(("name", "quantize"), in_both_forms(VLM_CONFIGS, SAMPLE, ()))
def test_a_store_and_decode_in_the_graph_are_bit_equal_to_mlx_vlm(
    made: Any, capped: Any, tmp_path: Path, name: str, quantize: Any
) -> None:
    folder, theirs = made(name, quantize)
    convert(str(folder), tmp_path / "store", prove=prove, say=lambda line: None)
    assert same(theirs, answer(capped(tmp_path / "store", "50%", routing="exact")))
    try:
        in_graph = capped(folder, "50%", routing="exact", decode="native")
    except UsageError as error:
        pytest.skip(str(error))
    assert same(theirs, answer(in_graph))


@pytest.mark.rows_by_day(5)
@pytest.mark.parametrize("name", by_day(ROUTABLE, [name for name in ROUTABLE if name not in DEAR]))
def test_a_router_s_weights_are_the_model_s_own_and_a_policy_changes_choices(
    made: Any, capped: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Layers of DeepSeek V4 that take their experts from a table are routed by none."""
    folder, theirs = made(name)
    model = capped(folder, "50%", routing="cache-prior", route_lambda=0.9)
    check_routing(monkeypatch, model, theirs, hashed=1 if name == "deepseek_v4" else 0)


def test_the_version_is_the_one_that_is_pinned() -> None:
    constraints = Path(__file__).parents[2] / "constraints.txt"
    assert installed() == VERSION
    assert not constraints.exists() or f"mlx-vlm=={VERSION}" in constraints.read_text(encoding="utf-8").split()


@pytest.mark.slow
def test_a_new_moe_package_of_mlx_vlm_has_a_row_everywhere() -> None:
    found = moe_packages(models())
    by_mlx_lm = {name.lower() for name in {*FAMILIES, *ALIASES}}
    ours = found - by_mlx_lm - set(VLM_LEFT)
    assert ours == set(VLM_FAMILIES), f"mlx-vlm and the store differ in {sorted(ours ^ set(VLM_FAMILIES))}"
    assert set(VLM_LEFT) <= found, f"left out, and not there: {sorted(set(VLM_LEFT) - found)}"
    assert {name.partition("+")[0] for name in VLM_CONFIGS} == set(TABLE) == set(VLM_FAMILIES)


@pytest.mark.parametrize("kind", VLM_LEFT)
def test_what_is_left_out_is_refused_by_name_with_the_reason(kind: str) -> None:
    if kind in {*FAMILIES, *ALIASES}:  # mlx-lm has it
        return
    with pytest.raises(UnsupportedModelError, match=rf"'{kind}' .*: {VLM_LEFT[kind]}"):
        family_of({"model_type": kind}, "model")


def test_which_families_see_is_known() -> None:
    def sees(name: str) -> bool:
        files = list((models() / name).glob("*.py"))
        return any(file.name == "vision.py" or "VisionModel" in file.read_text(encoding="utf-8") for file in files)

    assert {name for name in VLM_FAMILIES if not sees(name)} == SEES_NOTHING
    assert all(sees(name) for name in WITH_PICTURES)


def test_switches_are_capped_whatever_their_class(made: Any, capped: Any) -> None:
    model = capped(made("hy_v4")[0], "50%")
    assert sum(isinstance(module, CappedSwitch) for _, module in model.named_modules()) == 2
