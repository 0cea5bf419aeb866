"""What is said of a light mode that is switched on: why it has no effect here, or that nobody has judged it yet."""

from __future__ import annotations

from moe_mlx.errors import ExpertReadError
from moe_mlx.history.verdicts import read_verdicts
from moe_mlx.loading.runtime import Runtime
from moe_mlx.store.identity import identity_of


def light_remark(runtime: Runtime) -> str:
    """Returns one line; "" where every expert is waited for, or an evaluation of this model is on record."""
    rule = runtime.routing.light_rule
    if rule.waits or runtime.layers.whole:
        return ""
    if why := runtime.layers.why_waits:
        family = runtime.config.get("model_type", "this family")
        return f"{family}: every expert is waited for, --light {rule.mode} has no effect: {why}"
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
