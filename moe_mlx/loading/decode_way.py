"""Chooses how decode runs and says why: in the graph where that works here, else by reading back."""

from __future__ import annotations

import os
from collections.abc import Callable

import mlx.core as mx

from moe_mlx.counts.ledger import EventLog
from moe_mlx.counts.reads import BUCKETS, DEPTHS
from moe_mlx.errors import UsageError
from moe_mlx.loading.runtime import Runtime
from moe_mlx.loading.selfcheck import self_check
from moe_mlx.native import build
from moe_mlx.native.bridge import NativeDecode, NativeLayer
from moe_mlx.planning.prefetch import Prefetch
from moe_mlx.system.metal import FAST_SYNCH, fast_synch

DECODE_WAYS = ("auto", "native", "readback")
#: Overrides `auto`, for a machine where one way is to be used throughout.
VARIABLE = "MOE_MLX_DECODE"


def check_decode(decode: str) -> str:
    """Returns the way asked for.

    Raises:
        UsageError: there is no such way.
    """
    asked = os.environ.get(VARIABLE, decode) if decode == "auto" else decode
    if asked not in DECODE_WAYS:
        raise UsageError(f"unknown decode {asked!r}: choose one of {', '.join(DECODE_WAYS)}")
    return asked


def choose_decode(runtime: Runtime, decode: str, say: Callable[[str], None], prefetch: Prefetch | None = None) -> None:
    """Sets `runtime.decode_way` and `runtime.decode_reason`, and `runtime.prefetch` where decode is native.

    Args:
        runtime: A model that is loaded, its caches empty.
        decode: One of `DECODE_WAYS`.
        say: Gets a line before a build, and one with the choice and its reason.
        prefetch: How to read ahead, where decode is native; None to read on demand only.

    Raises:
        UsageError: "native" was asked for and cannot be had.
    """
    decode = check_decode(decode)
    if decode == "readback":
        runtime.decode_reason = "as asked"
        return
    if decode == "auto" and all(cache.full for cache in runtime.layers):
        runtime.decode_reason = "every expert is resident, so nothing is read back"
        return
    reason = _attach(runtime, say, prefetch)
    if not reason:
        runtime.use_decode("native")
        runtime.decode_reason = "as asked" if decode == "native" else "self-check passed"
        say(f"decode runs in the graph: {runtime.decode_reason}")
    elif decode == "native":
        raise UsageError(f"decode in the graph is not available here: {reason}")
    else:
        runtime.decode_reason = reason
        say(f"decode reads back at every layer: {reason}")


def _attach(runtime: Runtime, say: Callable[[str], None], prefetch: Prefetch | None) -> str:
    """Joins the primitive to every layer; returns why not. Hints are on during the self-check, so it covers them."""
    if fast_synch():
        return f"{FAST_SYNCH} is set, and its fences do not see what the CPU writes to a bank: unset it"
    try:
        module = build.load_native(say)
    except build.NativeUnavailableError as error:
        return str(error)
    if (len(EventLog.FIELDS), EventLog.ROWS) != (module.FIELDS, module.ROWS):
        return "the event log has another layout"
    if (DEPTHS, BUCKETS) != (module.READ_DEPTHS, module.READ_BUCKETS):
        return "the log of reads has another layout"
    runtime.native = NativeDecode(module, runtime.source, runtime.pool.readers)
    runtime.stats.read_totals.logs.append(runtime.native.read_log)
    for cache in runtime.layers:
        NativeLayer(runtime.native, cache)
    unknown = runtime.native.prefetch(prefetch) if prefetch is not None else 0
    reason = _checked(runtime)
    runtime.native.reader.close()
    if reason:
        runtime.native.close()
        runtime.native = None
    elif prefetch is not None:
        runtime.prefetch = prefetch
        say(f"prefetch is on ({prefetch.why}): {prefetch.nbytes / 1e6:.1f} MB of staging")
        if unknown:
            say(f"prefetch: {unknown} layers get no hints, because no adapter knows their router (moe-mlx families)")
    return reason


def _checked(runtime: Runtime) -> str:
    try:
        return self_check(runtime)
    except (RuntimeError, ValueError, TypeError) as error:
        mx.synchronize()
        return f"self-check: {error}"
