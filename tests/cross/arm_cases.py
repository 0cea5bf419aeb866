"""Decode in the graph against read-backs, bit for bit: every policy, eviction and way with light experts.

Run by `check_arm` on arm64. Prints one line a case and a last one with the counts; exit code 1 where a bit differs.
"""

from __future__ import annotations

import argparse
import platform
import sys
from itertools import product

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

import moe_mlx
from moe_mlx.expert_cache.eviction import EVICTIONS
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.native import build
from moe_mlx.routing.names import LIGHTS, POLICIES

#: Where these are 0, a comparison says nothing.
COUNTED = ("tokens", "misses", "swapped", "late")
PROMPT = (1, 7, 3, 20, 5, 9, 2, 11)


def decoded(policy: str, evict: str, light: str, way: str, tokens: int) -> tuple[list[bytes], list[int]]:
    """Returns every step's logits and every layer's table as they came, and the totals of `COUNTED`."""
    model, _ = moe_mlx.load(
        "demo", expert_cache="25%", routing=policy, evict=evict, light=light, decode=way, say=lambda line: None
    )
    runtime = moe_mlx.runtime_of(model)
    assert runtime.decode_way == way, runtime.decode_reason
    cache, token, found = make_prompt_cache(model), mx.array([PROMPT]), []
    for _ in range(tokens):
        logits = model(token, cache=cache)[:, -1].astype(mx.float32)
        found.append(np.array(logits).tobytes())
        token = mx.argmax(logits, axis=-1)[None]
    runtime.drain()
    for layer in runtime.layers:
        found += [getattr(layer.table, name).tobytes() for name in (*ResidencyTable.ARRAYS, "state")]
    totals = [getattr(runtime.stats.decode, name) for name in COUNTED]
    runtime.close()
    return found, totals


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--patience", type=float, default=3600, help="seconds for the build")
    args = parser.parse_args()
    mx.set_default_device(mx.cpu)
    build.PATIENCE_SECONDS = args.patience
    build.load_native(lambda line: print(line, flush=True))
    cases, differ, sums = 0, 0, [0] * len(COUNTED)
    for policy, evict, light in product(POLICIES, EVICTIONS, LIGHTS):
        ours, theirs = (decoded(policy, evict, light, way, args.tokens) for way in ("native", "readback"))
        cases, differ = cases + 1, differ + (ours != theirs)
        sums = [total + more for total, more in zip(sums, ours[1], strict=True)]
        print(f"{policy}, {evict}, light {light}: {'DIFFERS' if ours != theirs else 'equal'}", flush=True)
    counted = ", ".join(f"{total} {name}" for total, name in zip(sums, COUNTED, strict=True))
    print(f"{platform.machine()}: {cases} cases of {args.tokens} tokens, {differ} differ; in the graph {counted}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
