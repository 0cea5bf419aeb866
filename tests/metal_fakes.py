"""Metal as MLX describes it on a Mac with so much memory, where no Mac is."""

from typing import Any

import mlx.core as mx
import pytest


class FakeMetal:
    """Answers for the GPU only when it is asked for by name, as MLX does while the CPU is the default device."""

    def __init__(self, memory: int, working_set: int) -> None:
        self.memory, self.working_set = memory, working_set
        self.wired = 0
        self.set: list[int] = []

    def device_info(self, device: Any = None) -> dict[str, Any]:
        if device != mx.Device(mx.gpu):
            return {"device_name": "CPU", "architecture": "arm64"}
        return {"memory_size": self.memory, "max_recommended_working_set_size": self.working_set}

    def set_wired_limit(self, limit: int) -> int:
        before, self.wired = self.wired, limit
        self.set.append(limit)
        return before

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakeMetal":
        monkeypatch.setattr(mx.metal, "is_available", lambda: True)
        monkeypatch.setattr(mx, "device_info", self.device_info)
        monkeypatch.setattr(mx, "set_wired_limit", self.set_wired_limit)
        return self
