"""From a model to the runtime behind it, and back to its figures."""

from __future__ import annotations

import weakref

from mlx import nn

from moe_mlx.counts.ledger import Stats
from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.loading.limits import HeldLimits
from moe_mlx.loading.runtime import Runtime
from moe_mlx.store import ExpertSource

ATTRIBUTE = "moe_mlx_runtime"


def attach(model: nn.Module, runtime: Runtime) -> None:
    """Hangs the runtime on its model, outside the model's parameters."""
    object.__setattr__(model, ATTRIBUTE, runtime)
    weakref.finalize(model, _let_go, runtime.layers.pool, runtime.source, runtime.limits).atexit = False


def _let_go(pool: ReaderPool, source: ExpertSource, limits: HeldLimits) -> None:
    """Gives back the threads, descriptors and limits of a model that was dropped without `close`."""
    pool.close(wait=False)
    source.close()
    limits.give_back()


def runtime_of(model: nn.Module) -> Runtime:
    """Returns the runtime of a model loaded by `moe_mlx.load`.

    Raises:
        UsageError: the model was loaded by something else.
    """
    runtime = getattr(model, ATTRIBUTE, None)
    if not isinstance(runtime, Runtime):
        raise UsageError("this model was not loaded by moe_mlx.load, so it has no expert cache")
    return runtime


def stats(model: nn.Module) -> Stats:
    """Returns the running totals of a model: `stats(model).decode.hits` and so on."""
    return runtime_of(model).stats


def reset(model: nn.Module) -> None:
    """Empties residency, running ranges and counters, so that the same seed gives the same answer again."""
    runtime_of(model).reset()
