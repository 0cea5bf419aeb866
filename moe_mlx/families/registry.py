"""Which router a family has, and how its blocks are made to route by a policy. Tests run every row of the table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlx import nn

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
    "prism_hadamard_qwen35": "tested in float32 only: mlx-lm takes it in no quantisation but its own"
}


@dataclass(frozen=True, slots=True)
class RouterFamily:
    """One family of the table.

    Attributes:
        family: Model file of mlx-lm.
        block: Class of the block that holds its router and experts, and that block's own file.
        kind: What it ranks by, in words.
        cache_aware: Whether it can be routed by a policy.
        exact_tested: Whether the tests run it capped, bit for bit against mlx-lm.
        cache_aware_tested: Whether the tests route the whole model by policies.
        late: Whether its light experts may be late.
        why_waits: Why not.
        note: Why not, or what else is to be said.
    """

    family: str
    block: str
    kind: str
    cache_aware: bool
    exact_tested: bool
    cache_aware_tested: bool
    late: bool
    why_waits: str = ""
    note: str = ""


def families() -> list[RouterFamily]:
    """Returns the table, by family."""
    from moe_mlx.families.blocks import SITES

    rows = []
    for family in sorted({*SITES, *BUILT_ON}, key=str.lower):
        file = BUILT_ON.get(family, family)
        site, reason = SITES[file], UNTESTED.get(family, "")
        rows.append(
            RouterFamily(
                family,
                f"{file}.{site.block}",
                site.router.kind if site.router else "top-1",
                site.router is not None,
                not reason,
                site.router is not None and not reason,
                site.add_late is not None,
                site.why_waits,
                reason or site.why or NOTES.get(family, ""),
            )
        )
    return rows


def site_of(module: nn.Module) -> Site | None:
    """Returns the row for an MoE block, or None where no row knows it."""
    from moe_mlx.families.blocks import SITES

    for kind in type(module).__mro__:
        package, _, file = kind.__module__.rpartition(".")
        if package == "mlx_lm.models" and file in SITES and SITES[file].block == kind.__name__:
            return SITES[file]
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
        return True
    return False


def _at(holder: Any, names: list[str]) -> Any:
    for name in names:
        holder = holder[int(name)] if isinstance(holder, list | tuple) else getattr(holder, name)
    return holder


def _route(block: nn.Module, site: Site, switch: Any) -> None:
    from moe_mlx.families.mixins import LateBlock, Routing

    routed = getattr(block, site.gate) if site.gate else block
    file, _, name = (site.mixin or f"mixins:{'RoutedGate' if site.gate else 'RoutedBlock'}").partition(":")
    mixin = getattr(import_module(f"moe_mlx.families.{file}"), name)
    own = type(routed)
    routed.__class__ = type(f"Routed{own.__name__}", (mixin, own), {"__module__": own.__module__})
    routed.routing = Routing(site, switch)
    if site.add_late is not None:
        kind = type(block)
        block.__class__ = type(f"Late{kind.__name__}", (LateBlock, kind), {"__module__": kind.__module__})
        block.lateness, block.added_late = switch.cache.lateness, site.add_late
    assert site.router is not None
    switch.cache.router = partial(site.router.observed, getattr(routed, site.reads) if site.reads else routed)
