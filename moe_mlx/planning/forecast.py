"""The plan: for each cap, what it takes, whether it fits, and how fast it should be. From headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moe_mlx.errors import DoesNotFitError
from moe_mlx.planning.budget import Cap, MemoryPlan, mlx_cache_bytes, parse_cap, plan_memory
from moe_mlx.planning.crossings import PER_LAYER, capped_layers
from moe_mlx.planning.low_slots import divide_all, low_slots_words
from moe_mlx.planning.prediction import Rates, StepTime, assumed_miss_rate, step_time
from moe_mlx.planning.shape import ModelShape
from moe_mlx.planning.slot_share import Curve, shared_by
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import render

CAPS = ("12.5%", "25%", "37.5%", "50%", "75%", "100%")
#: Share of a Mac's memory that macOS recommends for the GPU: two thirds up to 32 GiB, three quarters above.
_SMALL_MAC, _SMALL_SHARE, _LARGE_SHARE = 34.4e9, 2 / 3, 3 / 4


@dataclass(frozen=True, slots=True)
class CapPlan:
    """One line of the plan; sizes in bytes, None where the cap is no cache at all (below top_k slots).

    Attributes:
        cap: As asked for.
        slots: Of each MoE layer.
        expert_cache: Bytes of the slots.
        total: Everything: slots, resident weights, KV cache, MLX's own buffer cache.
        fits: Whether it does.
        why_not: Why it does not.
        miss_rate: Assumed or measured.
        bytes_per_token: Read at that miss rate.
        step: Where the time of a decode step goes.
        capped_layers: Layers with fewer slots than experts.
        coarse: Whole and low slots of each layer that the same bytes make with --light coarse; empty where experts are
            whole only.
    """

    cap: str
    slots: tuple[int, ...]
    expert_cache: int
    total: int
    fits: bool
    why_not: str
    miss_rate: float
    bytes_per_token: float
    step: StepTime
    capped_layers: int = 0
    coarse: tuple[tuple[int, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Returns it with what is derived; crossings are of decode in the graph, read-backs of decode without it."""
        return {
            **asdict(self),
            "tokens_per_second": self.step.tps,
            "bottleneck": self.step.bottleneck,
            "crossings_per_token": PER_LAYER * self.capped_layers,
            "read_backs_per_token": self.capped_layers,
        }


def usable_memory(machine_bytes: int) -> int:
    """Returns what macOS recommends for the GPU of a Mac with that much memory."""
    return int(machine_bytes * (_SMALL_SHARE if machine_bytes <= _SMALL_MAC else _LARGE_SHARE))


def plan_caps(
    shape: ModelShape,
    available: int,
    rates: Rates,
    *,
    kv_cache: int,
    caps: Sequence[str] = CAPS,
    lossy: bool = True,
    miss_rate: float | None = None,
    known: Sequence[tuple[float, float]] = (),
    curves: Sequence[Curve] | None = None,
    comfortable: int | None = None,
) -> list[CapPlan]:
    """Plans every cap; "auto" is what the loader would choose.

    Args:
        shape: The model.
        available: Bytes that MLX may use.
        rates: The machine.
        kv_cache: Bytes of KV cache to leave room for.
        caps: As `--expert-cache` takes them.
        lossy: Whether cache-prior routes.
        miss_rate: Taken for every cap instead of the assumed one.
        known: Measured (share, miss rate) points.
        curves: What slots are shared by; evenly by default.
        comfortable: What "auto" keeps within; as `plan_memory`.
    """
    lines = []
    for text in caps:
        fits, why_not = True, ""
        try:
            plan = _plan(shape, parse_cap(text), kv_cache, available, comfortable)
        except DoesNotFitError as error:
            fits, why_not = False, str(error)
            try:
                plan = _plan(shape, parse_cap(text), kv_cache, 1 << 60)
            except DoesNotFitError:  # below the floor: no such cache anywhere
                continue
        plan = shared_by(plan, shape.layers, curves)
        everything = all(count == layer.experts for count, layer in zip(plan.slots, shape.layers, strict=True))
        resident = sum(plan.slots) / sum(layer.experts for layer in shape.layers)
        assumed = assumed_miss_rate(resident, lossy=lossy, known=known)
        misses = 0.0 if everything else assumed if miss_rate is None else miss_rate
        total = plan.expert_cache + shape.resident_nbytes + kv_cache + mlx_cache_bytes(available)
        chosen = sum(layer.top_k * layer.read_nbytes for layer in shape.layers)
        step = step_time(shape, rates, misses, capped=not everything)
        read, capped = misses * chosen, capped_layers(shape.layers, plan.slots)
        coarse = divide_all(shape.layers, plan.slots, shape.coarse_nbytes)
        line = CapPlan(text, plan.slots, plan.expert_cache, total, fits, why_not, misses, read, step, capped, coarse)
        lines.append(line)
    return lines


def _plan(shape: ModelShape, cap: Cap, kv: int, available: int, comfortable: int | None = None) -> MemoryPlan:
    return plan_memory(
        shape.layers,
        cap,
        resident_weights=shape.resident_nbytes,
        kv_cache=kv,
        available=available,
        comfortable=comfortable,
    )


def plan_table(
    shape: ModelShape, lines: Sequence[CapPlan], available: int, rates: Rates, kv_tokens: int, kv_cache: int
) -> str:
    """Returns the plan for people."""
    layer = shape.layers[0]
    first = ", to be converted before it runs" if shape.to_convert else ""
    heads = [
        "expert\ncache",
        "slots a\nlayer",
        "cache",
        "in all",
        "fits",
        "miss\nrate",
        "read a\ntoken",
        "crossings\na token",
        "tok/s",
        "ms a token:\nmemory",
        "\ndisk",
        "\nlayers",
        "bottleneck",
        *(["coarse: whole +\nlow slots"] if shape.coarse_nbytes else []),
    ]
    cells = []
    for line in lines:
        low, high = min(line.slots), max(line.slots)
        cells.append(
            [
                line.cap,
                str(low) if low == high else f"{low}-{high}",
                show_bytes(line.expert_cache),
                show_bytes(line.total),
                "yes" if line.fits else "NO",
                f"{line.miss_rate:.0%}",
                show_bytes(line.bytes_per_token),
                str(PER_LAYER * line.capped_layers),
                f"{line.step.tps:.1f}",
                f"{line.step.weights * 1e3:.1f}",
                f"{line.step.reads * 1e3:.1f}",
                f"{line.step.layers * 1e3:.1f}",
                line.step.bottleneck,
                *([low_slots_words(line.coarse)] if shape.coarse_nbytes else []),
            ]
        )
    return "\n".join(
        [
            f"{shape.name}: {shape.config.get('model_type')}, a {shape.form}{first}, built by {shape.built_by}",
            f"{len(shape.layers)} MoE layers x {layer.experts} experts, top-{layer.top_k}, "
            f"{show_bytes(layer.expert_nbytes)} each",
            f"experts {show_bytes(shape.experts_nbytes)}, resident weights {show_bytes(shape.resident_nbytes)}, "
            f"KV cache of {kv_tokens} tokens {show_bytes(kv_cache)}, memory MLX may use {show_bytes(available)}",
            *([f"experts in files {show_bytes(shape.stored_nbytes)}: {shape.bits}"] if shape.bits else []),
            *(f"{part.kind} {show_bytes(part.nbytes)}: {part.fate}" for part in shape.parts),
            f"on {rates.name}: {rates.assumed}",
            "",
            render(heads, cells),
            *_advice(shape, lines),
        ]
    )


def _advice(shape: ModelShape, lines: Sequence[CapPlan]) -> list[str]:
    """Returns what --light coarse would do at "auto", where it would do anything; nothing turns it on by itself."""
    line = next((line for line in lines if line.cap == "auto" and line.fits), None)
    if line is None or not any(low for _, low in line.coarse):
        return []
    held = sum(whole + low for whole, low in line.coarse)
    return [
        "",
        f"At auto, --light coarse would hold {held} of {sum(layer.experts for layer in shape.layers)} experts, "
        f"{sum(whole for whole, _ in line.coarse)} of them whole, instead of {sum(line.slots)}.",
        "It is lossy and off unless asked for: `moe-mlx eval --light exact,coarse` says what it costs this model.",
    ]
