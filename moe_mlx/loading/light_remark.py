"""What is said of a light mode that is switched on: why it has no effect here, or that nobody has judged it yet."""

from __future__ import annotations

from moe_mlx.errors import ExpertReadError
from moe_mlx.history.verdicts import read_verdicts
from moe_mlx.loading.runtime import Runtime
from moe_mlx.routing.light import LightRule
from moe_mlx.store.identity import identity_of


def _why_not_coarse(runtime: Runtime) -> str:
    if not runtime.layers.routed:
        return "this model's router is not known"
    if runtime.layers.coarse_nbytes is None:
        return "experts are whole only; `moe-mlx convert --nested` makes a store with their high bits first"
    return ""


def why_no_effect(runtime: Runtime, rule: LightRule) -> str:
    """Returns why a rule changes nothing on this model, whatever its cap; "" where it does something."""
    late = runtime.layers.why_waits if rule.late else ""
    coarse = _why_not_coarse(runtime) if rule.coarse else ""
    ways = ((rule.late, late), (rule.coarse, coarse))
    return "; ".join(why for asked, why in ways if asked) if all(why for asked, why in ways if asked) else ""


def light_remark(runtime: Runtime) -> str:
    """Returns one line; "" where every expert is waited for, or an evaluation of this model is on record."""
    rule = runtime.routing.light_rule
    if rule.waits or runtime.layers.whole:
        return ""
    family = runtime.config.get("model_type", "this family")
    if why := why_no_effect(runtime, rule):
        return f"{family}: every expert is waited for, --light {rule.mode} has no effect: {why}"
    if rule.late and (why := runtime.layers.why_waits):
        return f"{family}: --light {rule.mode} is coarse alone here: {why}"
    if rule.coarse and (why := _why_not_coarse(runtime)):
        return f"{family}: --light {rule.mode} is late alone here: {why}"
    if rule.coarse and not any(runtime.layers.low_slots):
        return (
            f"--light {rule.mode}: the expert cache has no room for high bits beside top_k whole experts a layer; "
            "every expert is whole. Raise --expert-cache"
        )
    try:
        known = read_verdicts(identity_of(runtime.source))
    except ExpertReadError:  # the step that needs that expert says so
        return ""
    if any(verdict.light == rule.mode for verdict in known):
        return ""
    return (
        f"what --light {rule.mode} costs this model in quality has not been measured: "
        f"`moe-mlx eval --light exact,{rule.mode}` on a text of yours does, and keeps it"
    )
