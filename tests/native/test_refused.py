"""What decode in the graph is refused for, in one line, though it could be built."""

from collections.abc import Callable
from pathlib import Path

import pytest

import moe_mlx
from moe_mlx.errors import UsageError
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
