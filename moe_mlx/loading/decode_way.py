"""Chooses how decode runs and says why: in the graph where that works here, else by reading back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
from moe_mlx.system.calibration import read_calibration
from moe_mlx.system.given import check_choice
from moe_mlx.system.metal import FAST_SYNCH, fast_synch

#: Gives every process's words about something, from its own; all that share a model ask in the same order.
Agree = Callable[[str, str], list[str]]
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
    model: nn.Module,
    cached: CachedLayers,
    decode: str,
    say: Callable[[str], None],
    prefetch: Prefetch | None = None,
    agree: Agree | None = None,
) -> DecodeChoice:
    """Chooses, and lets the layers decode that way.

    Args:
        model: The model, ready to run.
        cached: Its layers, their caches empty.
        decode: One of `DECODE_WAYS`.
        say: Gets a line before a build, and one with the choice and its reason.
        prefetch: How to prefetch, where decode is native; None to read on demand only.
        agree: How several processes that share the model agree; each step of each is a step of all.

    Raises:
        UsageError: "native" was asked for and cannot be had.
    """
    decode = check_decode(decode)
    if decode == READBACK:
        return DecodeChoice(READBACK, "as asked")
    whole = decode == "auto" and cached.whole
    if whole if agree is None else all(agree("whole layers", "yes" if whole else "")):
        return DecodeChoice(READBACK, "every expert is resident, so nothing is read back")
    problem = _measured_slower(decode, agree)
    if problem:
        say(f"decode reads back at every layer: {problem}")
        return DecodeChoice(READBACK, problem)
    problem = _try_native(model, cached, say, prefetch, agree)
    if not problem:
        cached.use_decode(NATIVE)
        choice = DecodeChoice(NATIVE, "as asked" if decode == NATIVE else "self-check passed", prefetch)
        say(f"decode runs in the graph: {choice.reason}")
        return choice
    if decode == NATIVE:
        raise UsageError(f"decode in the graph is not available here: {problem}")
    say(f"decode reads back at every layer: {problem}")
    return DecodeChoice(READBACK, problem)


def _measured_slower(decode: str, agree: Agree | None) -> str:
    found = read_calibration() if decode == "auto" else None
    slower = found is not None and found.native_gain is not None and found.native_gain < 1
    reason = f"this machine's calibration measured {found.native_gain:.2f}x in the graph" if found and slower else ""
    return _agreed(agree, "calibration", reason)


def _agreed(agree: Agree | None, about: str, problem: str) -> str:
    """Returns the first problem that a rank has; of this process where it runs alone."""
    return problem if agree is None else next(filter(None, agree(about, problem)), "")


def _try_native(
    model: nn.Module, cached: CachedLayers, say: Callable[[str], None], prefetch: Prefetch | None, agree: Agree | None
) -> str:
    """Joins the primitive to every layer; returns why not. Prefetch is on during the self-check, which covers it."""
    module, unknown, mine = None, 0, ""
    try:
        module = _extension(cached, say)
        native = NativeDecode(module, cached.source, cached.pool.readers)
        cached.join(native)
        unknown = native.prefetch(prefetch) if prefetch is not None else 0
    except (NativeUnavailableError, ThreadsRefusedError, RuntimeError) as error:
        mine = str(error)  # threads too: between asking and starting, others may have started some
    if not (problem := _agreed(agree, "decode", mine)):
        mine = _checked(model, cached, alone=agree is None)
        if mine and module is not None and came_along(module):
            reject(module, mine)
            mine += "; it came with this package, the next start builds one here"
        problem = _agreed(agree, "self-check", mine)
    if cached.native is not None:
        cached.native.reader.close()
    if problem:
        cached.part()
    elif prefetch is not None:
        say(f"prefetch is on ({prefetch.why}): {prefetch.nbytes / 1e6:.1f} MB of staging")
        if unknown:
            say(f"prefetch: nothing is guessed of {unknown} layers, whose router is not known (moe-mlx families)")
    return problem


def _extension(cached: CachedLayers, say: Callable[[str], None]) -> Any:
    """Returns the primitive's module.

    Raises:
        NativeUnavailableError: it cannot be had here, or not for these layers.
    """
    if fast_synch():
        raise NativeUnavailableError(
            f"{FAST_SYNCH} is set, and its fences do not see what the CPU writes to a bank: unset it"
        )
    module = load_extension(say)
    if problem := layout_problem(module):
        raise NativeUnavailableError(problem)
    return module


def _checked(model: nn.Module, cached: CachedLayers, *, alone: bool) -> str:
    """Checks the model; among others an error is no verdict, for they wait for the same steps."""
    try:
        return self_check(model, cached, alone=alone)
    except (RuntimeError, ValueError, TypeError) as error:
        if not alone:
            raise
        mx.synchronize()
        return f"self-check: {error}"
