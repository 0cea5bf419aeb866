"""What the engine says of an answer: its receipt, or what went wrong and what to do next."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from moe_mlx.errors import MoeMlxError
from moe_mlx.machines.rank_lines import describe_ranks
from moe_mlx.store.given import bits_words
from moe_mlx_tui.engine.snapshot import TurnReceipt

if TYPE_CHECKING:
    from moe_mlx.conversation.session import Answer, Session


def explain(error: BaseException) -> str:
    """Returns an error as a message with its next step; ours have theirs already."""
    if isinstance(error, MoeMlxError):
        return str(error)
    if isinstance(error, MemoryError):
        return "out of memory: lower the expert cache (Ctrl+P, expert cache 25%), or start a new session"
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{line} ({type(error).__name__}). The prompt cache was thrown away; send the message again, "
        "or start a new session."
    )


def receipt_of(answer: Answer, session: Session) -> TurnReceipt:
    """Returns what an answer took: decode's counters that a receipt shows, and what only an answer knows."""
    shown = {field.name for field in fields(TurnReceipt)}
    counts = {name: value for name, value in answer.decode.as_dict().items() if name in shown}
    beside = {
        "tokens": len(answer.tokens),
        "seconds": answer.seconds,
        "tps": answer.generation_tps,
        "prompt_tokens": answer.prompt_tokens,
        "reused_tokens": answer.reused_tokens,
        "prompt_tps": answer.prompt_tps,
        "finish": answer.finish_reason,
        "refilled": answer.refilled,
        "bytes_read": answer.decode.disk_bytes,
        "prompt_bytes_read": answer.prefill.bytes_read,
        "routing": answer.receipt.held or session.runtime.in_force,
        "profile": session.runtime.profile,
        "machines": tuple(describe_ranks(session.machines())),
        "drafts": "" if answer.receipt.drafts is None else answer.receipt.drafts.short,
        "bits": bits_words(session.runtime.source),
    }
    return TurnReceipt(**{**counts, **beside})
