"""What an empty conversation shows."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.widgets import Static

from moe_mlx.store.demo import DEMO
from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.engine.snapshot import EMPTY, FAILED, LOADING, ModelFacts, Snapshot
from moe_mlx_tui.widgets.hint import hint
from moe_mlx_tui.widgets.samples import OF_DEMO, OF_OTHERS, Samples

KEY = "bold $primary"


class Welcome(Vertical):
    """Name, model, cap, three things to try."""

    def __init__(self, *, plain: bool = False, live: bool = True) -> None:
        super().__init__(classes="welcome")
        self.plain, self.live = plain, live
        self._key: tuple[object, ...] = ()
        self.about, self.samples = Static(), Samples()
        self.samples.display = False

    def compose(self) -> ComposeResult:
        """Words, then the samples."""
        yield self.about
        yield self.samples

    def show(self, snapshot: Snapshot) -> None:
        """Takes in a snapshot."""
        key = (snapshot.phase, snapshot.model, snapshot.slots_per_layer, snapshot.routing, snapshot.error)
        if key == self._key:
            return
        self._key = key
        parts: list[Content | str | tuple[str, str]] = [("moe-mlx", "bold $primary"), "\n\n"]
        if snapshot.phase == FAILED:
            parts += [("The model could not be loaded.\n\n", "bold $error"), snapshot.error, "\n\n"]
            parts.append(
                (
                    "F2 lists the models; Ctrl+Q leaves, to start again with another --model or --expert-cache.",
                    "$foreground-muted",
                )
            )
        elif snapshot.phase == EMPTY:
            parts += [hint("F2", "models", KEY), ("  lists the models; none is loaded yet", "$foreground-muted")]
        elif snapshot.phase == LOADING or snapshot.model is None:
            parts.append((snapshot.activity or "loading", "$foreground-muted"))
        else:
            parts += self._about(snapshot, snapshot.model)
        self.about.update(Content.assemble(*parts))
        ready = self.live and snapshot.model is not None and snapshot.phase not in (FAILED, EMPTY, LOADING)
        demo = ready and snapshot.model is not None and snapshot.model.name == DEMO
        self.samples.offer((OF_DEMO if demo else OF_OTHERS) if ready else ())

    @staticmethod
    def _about(snapshot: Snapshot, facts: ModelFacts) -> list[Content | str | tuple[str, str]]:
        slots = sum(snapshot.slots_per_layer)
        return [
            (facts.name, "bold"),
            f" has {facts.offsets[-1]} experts in {facts.layers} layers; a token uses "
            f"{facts.top_k[0]} of {facts.experts[0]} in each.\n",
            "Memory holds ",
            (f"{slots} of them", "bold"),
            f" ({show_bytes(snapshot.memory.expert_slots)}); the others are read from disk when the router asks.\n\n",
            ("Routing: ", "$foreground-muted"),
            snapshot.routing,
            "\n\n",
            hint("Ctrl+P", "command_palette", KEY),
            ("  everything that can be done; try ", "$foreground-muted"),
            hint("expert cache 25%", "cap('25%')", "$foreground"),
            "\n",
            hint("Ctrl+G", "swap_map", KEY),
            ("  the map, on a narrow screen\n", "$foreground-muted"),
            hint("?     ", "help", KEY),
            ("  keys", "$foreground-muted"),
            "\n\n",
            ("Tab", "bold $primary"),
            ("  goes to these, Enter or a click takes one:", "$foreground-muted"),
        ]
