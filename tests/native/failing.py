"""A run into damaged experts: what it raises, what it leaves, and that the model goes on once they are repaired."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from moe_mlx.errors import ExpertReadError
from tests.damage import damage_thirds, repair
from tests.native.conftest import loaded, state
from tests.native.runs import steps


def failure(store: Path, whole: Path, fault: str, way: str, **options: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """Returns the exception's parts and every layer's table as it left them.

    Args:
        store: A copy of `whole`, to be damaged and repaired.
        whole: The store without faults.
        fault: One of `FAULTS`.
        way: How decode runs.
        **options: As `loaded` takes them.
    """
    model, _, runtime = loaded(store, way, routing="exact", **options)
    steps(model, tokens=3)
    damage_thirds(store, fault, runtime)
    with pytest.raises(ExpertReadError) as error:
        steps(model)
    found, tables = error.value, state(runtime)
    repair(store, whole)
    fresh = steps(loaded(store, "readback", routing="exact")[0])
    assert all(mx.array_equal(a, b) for a, b in zip(steps(model), fresh, strict=True))
    return (found.layer, found.expert, found.path, found.reason, str(found)), tables
