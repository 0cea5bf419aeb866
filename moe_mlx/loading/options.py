"""What `load` was asked for, checked before a file is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.eviction import make_eviction
from moe_mlx.history.file import AUTO, check_history
from moe_mlx.history.pins import PINNED_WHOLE, PinWish, read_pin
from moe_mlx.history.profiles import check_profile
from moe_mlx.history.warmup import check_warm
from moe_mlx.loading.decode_way import check_decode
from moe_mlx.loading.wiring import check_wired
from moe_mlx.machines.part import Part
from moe_mlx.machines.rows import Rows
from moe_mlx.planning.budget import Cap, parse_cap
from moe_mlx.planning.kv_cache import KVWish
from moe_mlx.planning.prefetch import check_prefetch
from moe_mlx.planning.slot_share import check_share
from moe_mlx.routing.names import DEFAULT_FORM, LIGHT_FORMS
from moe_mlx.routing.settings import RoutingSettings
from moe_mlx.store.demo import DEMO, DEMO_EXPERT_CACHE, demo_path
from moe_mlx.store.files import expanded
from moe_mlx.system.calibration import check_readers
from moe_mlx.system.given import check_choice, check_whole


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `load`, under their own names; the routing's are one setting.

    Attributes:
        kv: What the KV cache is planned for.
        pictures: Whether pictures will be shown to the model, which mlx-vlm then builds.
        beside: Bytes that something else in this process takes, or will take: they are in the memory plan.
        part: What of the model this process runs, where several share it; None for all of it.

    Raises:
        UsageError: a value that cannot be taken.
    """

    path_or_repo: str | Path
    expert_cache: str | int | None
    routing: RoutingSettings
    evict: str
    decode: str
    prefetch: str
    prefetch_extra: int
    kv: KVWish
    readers: int
    io: str
    wired: str
    verify_reads: bool
    adapter_path: str | None
    tokenizer_config: dict[str, Any] | None
    revision: str | None
    trust_remote_code: bool
    model_config: dict[str, Any] | None = None
    share: str = "even"
    history: str | Path | None = None
    warm: str = "off"
    beside: int = 0
    light_form: str = DEFAULT_FORM
    part: Part | Rows | None = None
    pictures: bool = False
    profile: str | None = None
    pin: str | int | None = None

    def __post_init__(self) -> None:
        make_eviction(self.evict)
        check_decode(self.decode)
        check_prefetch(self.prefetch, self.prefetch_extra)
        check_wired(self.wired)
        check_readers(self.readers)
        if self.kv.max_kv_size is not None:
            check_whole("max_kv_size", self.kv.max_kv_size)
        check_choice("light_form", self.light_form, LIGHT_FORMS)
        check_history(self.history)
        check_warm(self.warm)
        if check_profile(self.profile) is not None and self.history_folder is None:
            raise UsageError(f"profile={self.profile!r} needs a history, which is off: give history='auto' or a folder")
        if check_share(self.share) == "measured" and self.history_folder is None:
            raise UsageError("share='measured' needs a history: give history='auto' or a folder, or share evenly")
        if (pin := self.pin_wish) is not None:
            if pin.hottest and self.history_folder is None:
                raise UsageError(f"pin={self.pin!r} needs a history: give history='auto' or a folder, or name experts")
            if self.routing.light_rule.coarse:
                raise UsageError(PINNED_WHOLE)
        parse_cap(self._expert_cache)

    @property
    def pin_wish(self) -> PinWish | None:
        """Which experts never give way; None for none."""
        return read_pin(self.pin)

    @property
    def history_folder(self) -> str | Path | None:
        """Where the history is kept; None for none. To name a profile is to ask for one."""
        return check_history(AUTO if self.history is None and self.profile is not None else self.history)

    @property
    def cap(self) -> Cap:
        """The expert cache; where nothing was asked for, half of the demo and `auto` for everything else."""
        return parse_cap(self._expert_cache)

    @property
    def _expert_cache(self) -> str | int:
        if self.expert_cache is not None:
            return self.expert_cache
        return DEMO_EXPERT_CACHE if is_demo(self.path_or_repo) else "auto"


def is_demo(path_or_repo: str | Path) -> bool:
    """Whether that is the embedded demo, by its name or its folder."""
    if str(path_or_repo) == DEMO:
        return True
    try:
        return expanded(path_or_repo).resolve() == demo_path().resolve()
    except OSError:
        return False
