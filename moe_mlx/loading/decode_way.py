"""Chooses how decode runs and says why: in the graph where that works here, else by reading back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
from mlx import nn

from moe_mlx.errors import ThreadsRefusedError, UsageError
from moe_mlx.loading.cached_layers import CachedLayers
from moe_mlx.loading.extension import came_along, load_extension, reject
from moe_mlx.loading.selfcheck import self_check
from moe_mlx.native.bridge import NativeDecode
from moe_mlx.native.layout import layout_problem
from moe_mlx.native.toolchain import NativeUnavailableError
from moe_mlx.planning.prefetch import Prefetch
from moe_mlx.routing.names import DECODE_WAYS, NATIVE, READBACK
from moe_mlx.store.store import StoreSource
from moe_mlx.system.calibration import read_calibration
from moe_mlx.system.given import check_choice
from moe_mlx.system.metal import FAST_SYNCH, fast_synch

#: Overrides `auto`, for a machine where one way is to be used throughout.
VARIABLE = "MOE_MLX_DECODE"


def check_decode(decode: str) -> str:
    """Returns the way asked for.

    Raises:
        UsageError: there is no such way.
    """
    asked = os.environ.get(VARIABLE, decode) if decode == "auto" else decode
    check_choice("decode", asked, DECODE_WAYS)
    return asked


@dataclass(frozen=True, slots=True)
class DecodeChoice:
    """How decode runs.

    Attributes:
        way: "native" or "readback".
        reason: Why that way, in a few words.
        prefetch: How it prefetches; None where it does not.
    """

    way: str
    reason: str
    prefetch: Prefetch | None = None


def choose_decode(
    model: nn.Module, cached: CachedLayers, decode: str, say: Callable[[str], None], prefetch: Prefetch | None = None
) -> DecodeChoice:
    """Chooses, and lets the layers decode that way.

    Args:
        model: The model, ready to run.
        cached: Its layers, their caches empty.
        decode: One of `DECODE_WAYS`.
        say: Gets a line before a build, and one with the choice and its reason.
        prefetch: How to prefetch, where decode is native; None to read on demand only.

    Raises:
        UsageError: "native" was asked for and cannot be had.
    """
    decode = check_decode(decode)
    if decode == READBACK:
        return DecodeChoice(READBACK, "as asked")
    if decode == "auto" and cached.whole:
        return DecodeChoice(READBACK, "every expert is resident, so nothing is read back")
    found = read_calibration() if decode == "auto" else None
    if found is not None and found.native_gain is not None and found.native_gain < 1:
        reason = f"this machine's calibration measured {found.native_gain:.2f}x in the graph"
        say(f"decode reads back at every layer: {reason}")
        return DecodeChoice(READBACK, reason)
    problem = _try_native(model, cached, say, prefetch)
    if not problem:
        cached.use_decode(NATIVE)
        choice = DecodeChoice(NATIVE, "as asked" if decode == NATIVE else "self-check passed", prefetch)
        say(f"decode runs in the graph: {choice.reason}")
        return choice
    if decode == NATIVE:
        raise UsageError(f"decode in the graph is not available here: {problem}")
    say(f"decode reads back at every layer: {problem}")
    return DecodeChoice(READBACK, problem)


def _try_native(model: nn.Module, cached: CachedLayers, say: Callable[[str], None], prefetch: Prefetch | None) -> str:
    """Joins the primitive to every layer; returns why not. Prefetch is on during the self-check, which covers it."""
    if fast_synch():
        return f"{FAST_SYNCH} is set, and its fences do not see what the CPU writes to a bank: unset it"
    if any(layout.rearranged for layout in cached.source.layouts) and not isinstance(cached.source, StoreSource):
        return "experts are read as a machine's share of their rows, which only Python joins"
    try:
        module = load_extension(say)
    except NativeUnavailableError as error:
        return str(error)
    if problem := layout_problem(module):
        return problem
    try:
        native = NativeDecode(module, cached.source, cached.pool.readers)
        cached.join(native)
        unknown = native.prefetch(prefetch) if prefetch is not None else 0
    except (ThreadsRefusedError, RuntimeError) as error:  # between asking and starting, others may have started some
        cached.part()
        return str(error)
    problem = _checked(model, cached)
    native.reader.close()
    if problem:
        cached.part()
        if came_along(module):
            reject(module, problem)
            problem += "; it came with this package, the next start builds one here"
    elif prefetch is not None:
        say(f"prefetch is on ({prefetch.why}): {prefetch.nbytes / 1e6:.1f} MB of staging")
        if unknown:
            say(f"prefetch: nothing is guessed of {unknown} layers, whose router is not known (moe-mlx families)")
    return problem


def _checked(model: nn.Module, cached: CachedLayers) -> str:
    try:
        return self_check(model, cached)
    except (RuntimeError, ValueError, TypeError) as error:
        mx.synchronize()
        return f"self-check: {error}"
