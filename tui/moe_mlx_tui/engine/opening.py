"""From arguments to a session, with progress published on the way; and back to nothing, before another model comes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moe_mlx_tui.engine.loading import LoadProgress
from moe_mlx_tui.engine.snapshot import LOADING

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Session

#: How the loader's remarks begin that announce a minute of compiling, and what is shown meanwhile.
COMPILING = {
    "building the in-graph decode": "compiling the C++ of decode, once",
    "waiting for ": "waiting for another moe-mlx that compiles the C++ of decode",
}
#: What a snapshot shows of a model, once there is none.
NOTHING_LOADED: dict[str, Any] = {
    "phase": LOADING,
    "model": None,
    "cells": b"",
    "slots": b"",
    "uses": b"",
    "reads": b"",
    "slots_per_layer": (),
    "layer_hits": (),
    "layer_misses": (),
    "routing": "",
    "turn": "",
    "text": "",
    "prompt": "",
    "tokens": 0,
    "tps": 0.0,
    "receipt": None,
    "error": "",
    "context": 0,
    "price": "",
    "spent": 0.0,
    "why": "",
    "measured": "",
    "drafts": "",
    "gate": "",
}


class Opening:
    """One loading. `progress` may be read by another thread meanwhile."""

    def __init__(
        self, args: argparse.Namespace, publish: Callable[..., None], opener: Callable[..., Session] | None
    ) -> None:
        self.args, self.progress = args, LoadProgress(args)
        self._publish, self._opener = publish, opener

    def run(self) -> Session:
        """Loads; raises what the loader raises."""
        self._publish(phase=LOADING, activity="starting MLX", error="")
        if self._opener is not None:
            return self._opener(self.args, say=self._say)
        import mlx_lm  # noqa: F401  (takes longer than a small model)

        from moe_mlx.conversation.opening import open_session

        self._publish(activity=f"loading {self.args.model}")
        self.progress.measure()
        if getattr(self.args, "parallel", None) is not None:
            from moe_mlx.conversation.joining import join

            session = join(self.args, self._say)
            assert session is not None  # the other ranks open no app
            return session
        return open_session(self.args, say=self._say)

    def _say(self, line: str) -> None:
        """Passes a remark on; while the compiler runs there are no bytes to count, so the time is shown instead."""
        compiling = next((shown for begins, shown in COMPILING.items() if line.startswith(begins)), None)
        self.progress.counting = compiling is None
        self._publish(remark=line, activity=compiling or f"loading {self.args.model}", done=0, total=0)


def check_found(args: argparse.Namespace) -> None:
    """Finds out, before a model is let go, whether the next one can be opened.

    Raises:
        MoeMlxError: it cannot.
    """
    from moe_mlx.store import open_source
    from moe_mlx.store.resolve import resolve

    open_source(resolve(args.model, args.revision)).close()


def let_go(session: Session) -> None:
    """Gives a model's memory back."""
    import gc

    import mlx.core as mx

    session.keep_prompt()
    session.close()
    session.forget()
    session.model = None
    gc.collect()
    mx.clear_cache()
