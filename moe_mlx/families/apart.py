"""Experts of a loaded model that are no module of their own, or do more than experts do, become a switch."""

from __future__ import annotations

from mlx import nn


def experts_apart(path: str, module: nn.Module) -> tuple[str, nn.Module]:
    """Makes a switch of what holds a layer's stacked experts, in place; most families have one already.

    Args:
        path: Of the module that holds the experts' tensors.
        module: That module.

    Returns:
        The switch's path and the switch: it takes rows `[..., D]` and expert numbers `[..., k]`, and gives
        `[..., k, D]`.
    """
    kind = type(module)
    if kind.__module__ == "mlx_vlm.models.moondream3.language" and kind.__name__ == "MoEMLP":
        from moe_mlx.families.moondream3 import MoondreamExperts

        module.experts = MoondreamExperts(module.pop("fc1"), module.pop("fc2"))
        return f"{path}.experts", module.experts
    if kind.__module__ == "mlx_vlm.models.zaya1_vl.language" and kind.__name__ == "ZayaSwitchMLP":
        from moe_mlx.families.zaya import ZayaExperts

        module.__class__ = type(kind.__name__, (ZayaExperts, kind), {"__module__": kind.__module__})
    return path, module
