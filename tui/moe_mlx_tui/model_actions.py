"""Choosing a model in the app: the list at the start, and another one at any time with the conversation kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType

from moe_mlx.catalogue.offers import Offer
from moe_mlx_tui.base_app import MoeApp
from moe_mlx_tui.engine.orders import Load
from moe_mlx_tui.screens.models import ModelsScreen


class ModelActions(MoeApp):
    """What has to do with which model runs."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("f2", "models", "models", show=False)]
    MODEL_ACTIONS: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("models", "F2 or /model: run another one, the conversation is kept", "models"),
    )
    #: Whether the list of models is the first thing shown.
    at_home = False
    #: Replaced where the list is to be another (tests).
    find_models: Callable[[], list[Offer]] | None = None

    def idle(self) -> bool:
        """Whether no answer is under way; says so if there is one."""
        raise NotImplementedError

    def action_models(self, wanted: str = "") -> None:
        """Lists the models."""
        if not self.idle() or isinstance(self.screen, ModelsScreen):
            return
        running = self.shown.model.model if self.shown is not None and self.shown.model is not None else ""
        self.push_screen(ModelsScreen(self.find_models or self._offers, wanted=wanted, running=running), self._load)

    def _load(self, order: Load | None) -> None:
        if order is not None:
            self.source.submit(order)
        self.focus_entry()

    def _offers(self) -> list[Offer]:
        from moe_mlx.catalogue.estimate import rates_here
        from moe_mlx.catalogue.offers import offers
        from moe_mlx.system.config import model_folders
        from moe_mlx.system.memory import recommended_bytes

        return offers(recommended_bytes() + self._held(), rates_here(), model_folders())

    def _held(self) -> int:
        """Bytes that go free with the model that runs, where the system counts what is free."""
        import mlx.core as mx

        if self.shown is None or mx.metal.is_available():
            return 0
        return self.shown.memory.expert_slots + self.shown.memory.resident_weights
