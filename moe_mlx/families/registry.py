"""Which router a family has, and how its blocks are made to route by a policy. Tests run every row of the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlx import nn

from moe_mlx.store.families import MLX_LM, MLX_VLM
from moe_mlx.store.vlm_families import VLM_FAMILIES, WITH_PICTURES

if TYPE_CHECKING:
    from moe_mlx.families.blocks import Site

#: Families (model files of mlx-lm) that run another family's block.
BUILT_ON: dict[str, str] = {
    "gemma4": "gemma4_text",
    "glm_moe_dsa": "deepseek_v32",
    "kimi_k25": "deepseek_v3",
    "kimi_vl": "deepseek_v3",
    "longcat_flash_ngram": "longcat_flash",
    "mistral3": "mistral4",
    "prism_hadamard_qwen35": "qwen3_next",
    "qwen3_5": "qwen3_next",
    "qwen3_5_moe": "qwen3_next",
    "qwen3_vl_moe": "qwen3_moe",
    "solar_open": "glm4_moe",
}

#: What cannot be run in the tests, which have no GPU, and why; of such a family bytes and one block are checked.
UNTESTED: dict[str, str] = {"muse_spark": "its router and norms are Metal kernels, in the test of its block restated"}

#: What else is to be said of a family.
NOTES: dict[str, str] = {
    "kimi_vl": "mlx-lm 0.32.2 does not load its attention as published: with pictures it runs, in place",
    "prism_hadamard_qwen35": "tested in float32 only: mlx-lm takes it in no quantisation but its own",
}

#: Families of mlx-vlm that run another one's block, by package.
VLM_BUILT_ON: dict[str, str] = {
    "deepseekocr_2": "deepseekocr",
    "mimo_v2": "mimo_v2_flash",
    "minicpmv4_7": "qwen3_5_moe",
    "minimax_m3": "minimax_m3_vl",
    "mistral_large3": "deepseek_v3",
    "nemotron_h_nano_omni": "nemotron_h",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "unlimited_ocr": "deepseekocr",
    "xing4_0": "deepseek_v3",
}

#: Families that the tests show pictures.
PICTURES_TESTED = frozenset(
    {"gemma4", "kimi_k25", "kimi_vl", "llama4", "mistral3", "qwen3_5_moe", "qwen3_vl_moe", "zaya1_vl"}
)
#: Families of mlx-vlm alone that see nothing.
SEES_NOTHING = frozenset(
    {
        "cohere2_moe",
        "flint",
        "hy_v4",
        "kolibri1",
        "longcat_flash_sparse",
        "minimax_m3",
        "qwen3_5_moe_text",
        "xing4_0",
    }
)


@dataclass(frozen=True, slots=True)
class RouterFamily:
    """One family of the table.

    Attributes:
        family: Model file of mlx-lm, or package of mlx-vlm.
        built_by: Which of them builds it for text.
        block: Class of the block that holds its router and experts, and that block's own file.
        kind: What it ranks by, in words.
        cache_aware: Whether it can be routed by a policy.
        exact_tested: Whether the tests run it capped, bit for bit against mlx-lm.
        cache_aware_tested: Whether the tests route the whole model by policies.
        native: Whether the tests run its decode in the graph.
        pictures: "tested" where the tests show it pictures, "not tested" where they do not and mlx-vlm has a tower
            for it; "" where it is shown none.
        late: Whether its light experts may be late.
        why_waits: Why not.
        note: Why not, or what else is to be said.
    """

    family: str
    built_by: str
    block: str
    kind: str
    cache_aware: bool
    exact_tested: bool
    cache_aware_tested: bool
    native: bool
    pictures: str
    late: bool
    why_waits: str = ""
    note: str = ""


def families() -> list[RouterFamily]:
    """Returns the table, by family: mlx-lm's, then mlx-vlm's that mlx-lm lacks."""
    from moe_mlx.families.blocks import SITES
    from moe_mlx.families.vlm_blocks import VLM_SITES

    by_mlx_lm = sorted({*SITES, *BUILT_ON}, key=str.lower)
    rows = [_row(MLX_LM, family, BUILT_ON, SITES, UNTESTED) for family in by_mlx_lm]
    return rows + [_row(MLX_VLM, family, VLM_BUILT_ON, VLM_SITES, {}) for family in sorted(VLM_FAMILIES)]


def _row(
    library: str, family: str, built_on: dict[str, str], sites: dict[str, Site], untested: dict[str, str]
) -> RouterFamily:
    file = built_on.get(family, family)
    site, reason = sites[file], untested.get(family, "")
    return RouterFamily(
        family,
        library,
        f"{file}.{site.block}",
        site.router.kind if site.router else "exact only" if library == MLX_VLM else "top-1",
        site.router is not None,
        not reason,
        site.router is not None and not reason,
        not reason,
        _pictures(library, family),
        site.add_late is not None,
        site.why_waits,
        reason or site.why or NOTES.get(family, ""),
    )


def _pictures(library: str, family: str) -> str:
    shown = family in WITH_PICTURES if library == MLX_LM else family not in SEES_NOTHING
    return "" if not shown else "tested" if family in PICTURES_TESTED else "not tested"


def site_of(module: nn.Module) -> Site | None:
    """Returns the row for an MoE block, or None where no row knows it."""
    from moe_mlx.families.blocks import SITES
    from moe_mlx.families.vlm_blocks import VLM_SITES

    for kind in type(module).__mro__:
        library, _, file = kind.__module__.partition(".models.")
        table, file = {"mlx_lm": SITES, "mlx_vlm": VLM_SITES}.get(library, {}), file.partition(".")[0]
        if file in table and table[file].block == kind.__name__:
            return table[file]
    return None


def make_routable(model: nn.Module, path: str) -> bool:
    """Lets the block that holds the switch at `path` route by policy, in place.

    The routed module becomes an instance of a subclass of its own class, with a mixin in front: its parameters,
    children and every call that is not a decode step under a lossy policy stay mlx-lm's own.

    Args:
        model: A model whose switch at `path` has been replaced.
        path: Module path of the switch.

    Returns:
        False where no row knows the block; it then routes exactly. A top-1 block is known, and routes exactly too.
    """
    names = path.split(".")
    for depth in range(len(names) - 1, 0, -1):
        block = _at(model, names[:depth])
        site = site_of(block) if isinstance(block, nn.Module) else None
        if site is None or site.switch != ".".join(names[depth:]):
            continue
        switch = _at(model, names)
        switch.cache.lateness.why_waits = site.why_waits
        if site.router is not None:
            _route(block, site, switch)
        elif site.mixin:
            _put_before(block, _mixin(site.mixin))
        return True
    return False


def _at(holder: Any, names: list[str]) -> Any:
    for name in names:
        holder = holder[int(name)] if isinstance(holder, list | tuple) else getattr(holder, name)
    return holder


def _mixin(name: str) -> type:
    file, _, name = name.partition(":")
    mixin: type = getattr(import_module(f"moe_mlx.families.{file}"), name)
    return mixin


def _put_before(module: nn.Module, mixin: type) -> None:
    own = type(module)
    module.__class__ = type(f"Routed{own.__name__}", (mixin, own), {"__module__": own.__module__})


def _route(block: nn.Module, site: Site, switch: Any) -> None:
    from moe_mlx.families.mixins import LateBlock, Routing

    routed = getattr(block, site.gate) if site.gate else block
    _put_before(routed, _mixin(site.mixin or f"mixins:{'RoutedGate' if site.gate else 'RoutedBlock'}"))
    routed.routing = Routing(site, switch)
    if site.add_late is not None:
        kind = type(block)
        block.__class__ = type(f"Late{kind.__name__}", (LateBlock, kind), {"__module__": kind.__module__})
        block.lateness, block.added_late = switch.cache.lateness, site.add_late
    assert site.router is not None
    switch.cache.router = partial(site.router.observed, getattr(routed, site.reads) if site.reads else routed)
