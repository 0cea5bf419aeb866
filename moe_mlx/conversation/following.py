"""A rank that does what rank 0 says: the same answers over its own part of the model, and nothing of its own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

from moe_mlx.conversation.figures import figures_of, map_of
from moe_mlx.conversation.leading import (
    ANSWER,
    CHANGE,
    CHANGES,
    END,
    FORGET,
    RESIZE,
    agreed_slots,
    agreement_of,
    forget_if_apart,
    rank_summary,
)
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import MachinesError, NotTogetherError
from moe_mlx.machines.group import in_group
from moe_mlx.machines.meeting import Meeting


def follow(session: Session, meeting: Meeting, group: Any, *, by_layers: bool) -> None:
    """Follows rank 0 until it ends.

    Args:
        session: Over this rank's part.
        meeting: Where orders come from.
        group: MLX's group.
        by_layers: Whether ranks have layers of their own; else all share each expert.

    Raises:
        MachinesError: rank 0 or another rank is gone, or failed.
        MoeMlxError: what an answer raises here; the others have been told.
    """
    named = meeting.launch.named(meeting.launch.rank)
    runtime = session.runtime
    meeting.pulse.figures = lambda whole: figures_of(runtime) | (map_of(runtime) if whole else {})
    with in_group(meeting):
        while True:
            order = meeting.next_order()
            wanted = order.get("do")
            if wanted == ANSWER:
                _answer(session, group, order)
                said = rank_summary(session, named) | {"figures": figures_of(runtime) | map_of(runtime)}
                forget_if_apart(session, meeting.exchange("answered", said))
            elif wanted == FORGET:
                session.forget()
            elif wanted == RESIZE:
                cap = order["expert_cache"]
                with suppress(NotTogetherError):  # rank 0 says so, and all go on as before
                    slots = agreed_slots(runtime, meeting, cap, by_layers=by_layers)
                    runtime.sizing.resize(cap, runtime.evict, slots)
            elif wanted == CHANGE and order.get("name") in CHANGES:
                getattr(session.runtime, order["name"])(**order["arguments"])
            elif wanted == END:
                break
            else:
                raise MachinesError(f"rank 0 orders {str(wanted)[:40]!r}, which this moe-mlx does not know")
        meeting.exchange("ended", None)
    meeting.close()
    session.runtime.close()


def _answer(session: Session, group: Any, order: dict[str, Any]) -> None:
    session.sampling = Sampling(**order["sampling"])
    session.caching = replace(session.caching, prefill_step_size=int(order["chunk"]))
    session.agreement = agreement_of(group, session.runtime)
    for _ in session.answer([int(token) for token in order["prompt"]]):
        pass
