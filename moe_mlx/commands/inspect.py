"""Show the layers, experts and sizes of a store or MLX checkpoint, and what expert caches of several sizes mean.

GB is 10^9 bytes. A share of the experts rounds down to whole slots a layer, never below what a token chooses.

With --experts: which experts are used, which are used together, and what follows in the next layer, from a trace of
`moe-mlx eval --routing exact --trace FILE` (which needs no MODEL) or from a history; and how well that would guess.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from moe_mlx.commands.bits_arguments import bits_table
from moe_mlx.commands.share_arguments import add_share_arguments, curves_of_args
from moe_mlx.errors import UsageError, one_line
from moe_mlx.history.file import AUTO
from moe_mlx.planning.budget import cache_bytes, slots_for_share
from moe_mlx.planning.crossings import PER_LAYER, capped_layers
from moe_mlx.planning.low_slots import coarse_sizes, divide_all, low_slots_words
from moe_mlx.planning.shape import local_shape
from moe_mlx.planning.slot_share import Curve, measured_slots
from moe_mlx.store import ExpertSource, StoreSource, open_source
from moe_mlx.store.given import bits_words, mean_bits
from moe_mlx.store.page_cache import page_cache_use
from moe_mlx.store.parts import COARSE_FORMS, arranged, version_of
from moe_mlx.store.resolve import resolve
from moe_mlx.store.spec import ExpertLayer
from moe_mlx.system.sizes import sizes_alike
from moe_mlx.system.table import render

SHARES = (0.125, 0.25, 0.5, 0.75, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="folder of a store or MLX checkpoint, a cached hub repository, or demo",
    )
    add_share_arguments(parser)
    parser.add_argument(
        "--experts",
        nargs="?",
        const=AUTO,
        metavar="FILE",
        help="show the use of experts, from a trace or a history (default: MODEL's history, see --history, --profile)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="with --experts: heat maps as .svg or .png (extra `plot`)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def describe(source: ExpertSource, curves: Sequence[Curve] | None = None) -> dict[str, Any]:
    """Returns everything shown, sizes in bytes; slots shared by `curves` where there are any."""
    shape = local_shape(source.root)
    caps, resident = [], shape.resident_nbytes
    for share in SHARES:
        per_layer = slots_for_share(source.layers, share)
        if curves is not None:
            per_layer = measured_slots(source.layers, curves, per_layer)
        held = cache_bytes(source.layers, per_layer)
        caps.append(
            {
                "share": share,
                "slots_per_layer": per_layer[0] if len(set(per_layer)) == 1 else list(per_layer),
                "slots": sum(per_layer),
                "expert_cache_bytes": held,
                "with_resident_bytes": held + resident,
                "crossings_per_token": PER_LAYER * (capped := capped_layers(source.layers, per_layer)),
                "read_backs_per_token": capped,
                "coarse": divide_all(source.layers, per_layer, coarse_sizes(source)),
            }
        )
    cached = page_cache_use(source)
    return {
        "model": str(source.root),
        "model_type": source.config.get("model_type"),
        "form": "checkpoint" if source.in_place else "store",
        "version": version_of(source.layouts, fewer=bool(source.bits)),
        "built_by": shape.built_by,
        "beside": [part.as_json() for part in shape.parts],
        "layers": [
            {
                "index": layer.index,
                "layer": layer.layer,
                "path": layer.path,
                "experts": layer.experts,
                "top_k": layer.top_k,
                "bytes_per_expert": layer.expert_nbytes,
                "tensors": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in layer.tensors],
                **_parts(source, layer),
                **_bits(source, layer),
            }
            for layer in source.layers
        ],
        "experts": sum(layer.experts for layer in source.layers),
        "experts_bytes": source.experts_nbytes,
        **_given(source),
        "resident_bytes": resident,
        "page_cache": None if cached is None else {"bytes": cached.nbytes, "estimate": cached.estimate},
        "caps": caps,
    }


def _parts(source: ExpertSource, layer: ExpertLayer) -> dict[str, Any]:
    """Returns how a layer's experts lie in a store of version 2; nothing of other models."""
    if not any(layout.rearranged for layout in source.layouts):
        return {}
    layout = source.layouts[layer.index]
    coarse = {form: layout.coarse_nbytes(form) for form in COARSE_FORMS} if layout.nested else {}
    return {
        "row_blocks": layout.row_blocks,
        "parts": [{"name": part.name, "bytes": part.nbytes} for part in layout.parts],
        "coarse_bytes_per_expert": coarse,
    }


def _given(source: ExpertSource) -> dict[str, Any]:
    """Returns what a store says of the bits of all its experts; nothing of other models."""
    if not isinstance(source, StoreSource) or not source.bits:
        return {}
    return {
        "experts_stored_bytes": source.manifest.stored_nbytes,
        "bits_per_weight": mean_bits(source),
        "calibration": source.manifest.calibration,
    }


def _bits(source: ExpertSource, layer: ExpertLayer) -> dict[str, Any]:
    """Returns the bits of each of a layer's experts, and what they cost; nothing of other models."""
    if not isinstance(source, StoreSource) or not source.bits:
        return {}
    stored = source.manifest.layers[layer.index]
    return {"bits": list(stored.bits), "error": stored.error, "stored_bytes": stored.stored_nbytes}


def run(args: argparse.Namespace) -> int:
    """Prints the description."""
    if args.experts is not None:
        return _show_use(args)
    if args.plot is not None:
        raise UsageError("--plot draws the use of experts: give --experts too")
    if args.model is None:
        raise UsageError("which model? Give its folder or name, or a trace by --experts FILE")
    with open_source(resolve(args.model, cached=True).resolve(), verify=False) as source:
        described = describe(source, curves_of_args(args, source))
        if args.json:
            print(json.dumps(described))
            return 0
        form = (
            "an MLX checkpoint, read in place: `moe-mlx convert` makes a miss one read"
            if source.in_place
            else f"a store{arranged(source.layouts, bits_words(source))}"
        )
        print(f"{one_line(described['model'])}: {described['model_type']}, built by {described['built_by']}, {form}\n")
        print(_layers_table(source) + "\n")
        print(_sizes_table(source, described) + "\n")
        if source.bits:
            print(_bits_table(described) + "\n")
        print(_caps_table(described))
        print(
            "\nWith --io cached the page cache may hold what is in the expert cache a second time, until others need\n"
            "the memory; with --io direct no expert is held twice."
        )
    return 0


def _show_use(args: argparse.Namespace) -> int:
    from moe_mlx.evaluation.expert_use import read_use

    if args.plot is not None:
        from moe_mlx.system.plots import check_plot

        check_plot(args.plot)
    if args.model is None:
        use = read_use(args.experts, args.history, None)
    else:
        with open_source(resolve(args.model, cached=True).resolve(), verify=False) as source:
            use = read_use(args.experts, args.history, source, args.profile or None)
    if args.plot is not None:
        from moe_mlx.evaluation.heat_maps import draw_use

        draw_use(args.plot, use)
    print(json.dumps(use.as_dict()) if args.json else use.text())
    return 0


def _layers_table(source: ExpertSource) -> str:
    """Layers of one shape in one row each."""
    rows = []
    for (experts, top_k, nbytes, _), group in groupby(source.layers, key=_shape):
        alike = list(group)
        span = f"{alike[0].layer}-{alike[-1].layer}" if len(alike) > 1 else f"{alike[0].layer}"
        names = ", ".join(f"{t.name} {t.dtype}{list(t.shape)}" for t in alike[0].tensors[:3])
        more = len(alike[0].tensors) - 3
        rows.append(
            [span, str(experts), str(top_k), f"{nbytes / 1e6:.3f}", names + (f", and {more} more" if more > 0 else "")]
        )
    return render(["layers", "experts", "top-k", "MB/expert", "tensors of one expert"], rows, left=(0, 4))


def _sizes_table(source: ExpertSource, described: dict[str, Any]) -> str:
    parts = [("experts", str(described["experts"]), source.experts_nbytes, "")]
    if source.bits:
        parts.append(("in files", "", described["experts_stored_bytes"], bits_words(source)))
    for form in COARSE_FORMS if all(layout.nested for layout in source.layouts) and source.layouts else ():
        nbytes = sum(layout.coarse_nbytes(form) * layout.layer.experts for layout in source.layouts)
        parts.append((f"coarse {form}", "", nbytes, f"{nbytes / source.experts_nbytes:.0%} of the experts, read first"))
    parts.append(("resident", "", described["resident_bytes"], ""))
    parts += [(part["kind"], "", part["nbytes"], part["fate"]) for part in described["beside"]]
    if (cached := described["page_cache"]) is not None:
        about = ", estimated from a sample" if cached["estimate"] else ""
        share = cached["bytes"] / described.get("experts_stored_bytes", source.experts_nbytes)
        parts.append(("page cache", "", cached["bytes"], f"{share:.0%} of the experts{about}"))
    sizes = sizes_alike([nbytes for _, _, nbytes, _ in parts])
    rows = [(name, count, size, what) for (name, count, _, what), size in zip(parts, sizes, strict=True)]
    return render(["weights", "experts", "size", ""], rows, left=(0, 3))


def _bits_table(described: dict[str, Any]) -> str:
    """Bits that were given to experts, by layer, and what that changes of the layer's output."""
    text = described["calibration"]
    table = bits_table("layer", ((one["layer"], one["bits"], one["error"]) for one in described["layers"]))
    return table + (f"\nmeasured on {text}" if text else "")


def _caps_table(described: dict[str, Any]) -> str:
    rows = []
    caps = described["caps"]
    held = sizes_alike([cap["expert_cache_bytes"] for cap in caps])
    whole = sizes_alike([cap["with_resident_bytes"] for cap in caps])
    for cap, *sizes in zip(caps, held, whole, strict=True):
        each = cap["slots_per_layer"]
        slots = f"{min(each)}-{max(each)}" if isinstance(each, list) else str(each)
        crossed = [str(cap[name]) for name in ("crossings_per_token", "read_backs_per_token")]
        rows.append([f"{cap['share']:.1%}", slots, str(cap["slots"]), *sizes, *crossed])
        if cap["coarse"]:
            rows[-1].append(low_slots_words(cap["coarse"]))
    heads = ["expert cache", "slots/layer", "slots", "cache", "with resident", "crossings/token", "or read-backs"]
    if caps[0]["coarse"]:
        heads.append("coarse: whole + low")
    return render(heads, rows)


def _shape(layer: ExpertLayer) -> tuple[int, int, int, object]:
    return layer.experts, layer.top_k, layer.expert_nbytes, layer.tensors
