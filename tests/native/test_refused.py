"""What decode in the graph is refused for, in one line, though it could be built."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import moe_mlx
from moe_mlx.errors import UsageError
from moe_mlx.loading import decode_way
from moe_mlx.native import build
from moe_mlx.system.metal import FAST_SYNCH


def test_mlx_s_spinning_fences(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(FAST_SYNCH, "1")
    said: list[str] = []
    model, _ = moe_mlx.load(tiny(), expert_cache="25%", say=said.append)
    runtime = moe_mlx.runtime_of(model)
    assert runtime.decode_way == "readback"
    assert len([line for line in said if FAST_SYNCH in line]) == 1
    runtime.close()
    with pytest.raises(UsageError, match=f"{FAST_SYNCH} is set.*unset it"):
        moe_mlx.load(tiny(), expert_cache="25%", decode="native", say=said.append)


@pytest.mark.parametrize("changed", ["TABLE_STATE", "TABLE_ARRAYS", "EVENT_FIELDS", "EVENT_ROWS", "READ_BUCKETS"])
def test_memory_that_is_laid_out_otherwise(
    native: Any, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, changed: str
):
    module = build.load_native(lambda line: None)
    other = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    value = other[changed]
    other[changed] = value + 1 if isinstance(value, int) else {"slot": "q"} if isinstance(value, dict) else value[::-1]
    monkeypatch.setattr(decode_way, "load_extension", lambda say: SimpleNamespace(**other))
    said: list[str] = []
    model, _ = moe_mlx.load(tiny(), expert_cache="25%", say=said.append)
    runtime = moe_mlx.runtime_of(model)
    assert (runtime.decode_way, runtime.layers.native) == ("readback", None)
    assert len([line for line in said if "has another layout" in line]) == 1
    runtime.close()
    with pytest.raises(UsageError, match="has another layout"):
        moe_mlx.load(tiny(), expert_cache="25%", decode="native", say=said.append)
