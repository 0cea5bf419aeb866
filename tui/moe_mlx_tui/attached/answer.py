"""One answer of a server: its text as it comes, its receipt from the `usage` that the server ends it with."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from moe_mlx.drafting.counts import short
from moe_mlx.errors import MoeMlxError
from moe_mlx.machines.rank_lines import describe_ranks
from moe_mlx_tui.attached.link import Link, Reply
from moe_mlx_tui.engine.orders import Ask
from moe_mlx_tui.engine.snapshot import DECODE, IDLE, PREFILL, ModelFacts, TurnReceipt
from moe_mlx_tui.engine.written import Written
from moe_mlx_tui.entry.files import sent

_COUNTS = {field.name for field in fields(TurnReceipt)}


class AttachedAnswer:
    """Asks once. `run` blocks; `stop` may be called from another thread, before it too.

    Args:
        link: The server.
        ask: What is asked.
        facts: The model there.
        publish: Makes a snapshot with these changes.
    """

    def __init__(self, link: Link, ask: Ask, facts: ModelFacts, publish: Callable[..., None]) -> None:
        self.ask = ask
        self._link, self._publish = link, publish
        self._written = Written(facts)
        self._reply: Reply | None = None
        self._stopped = False
        self._message = {"role": "assistant", "content": "", "reasoning_content": ""}
        self._tokens, self._finish = 0, ""
        self._began, self._first = time.monotonic(), 0.0

    def stop(self) -> None:
        """Leaves the answer as it stands."""
        self._stopped = True
        if self._reply is not None:
            self._reply.end()

    def run(self, routing: Callable[[], str]) -> None:
        """Publishes the answer as it grows, then what it took, or what went wrong.

        Args:
            routing: The routing in force at the server, in words.
        """
        self._publish(
            phase=PREFILL,
            activity="the server reads the prompt",
            turn=self.ask.turn,
            at=self.ask.at,
            prompt=self.ask.messages[-1]["content"],
            text="",
            reply={},
            tokens=0,
            receipt=None,
            error="",
        )
        usage: Mapping[str, Any] | None = None
        try:
            if not self._stopped:
                asked = {"stream": True, "stream_options": {"include_usage": True}}
                body = {"messages": sent(self.ask.messages), **asked}
                self._reply = self._link.ask("/v1/chat/completions", body)
                if self._stopped:
                    self._reply.end()
                for _, row in self._reply.events():
                    usage = row.get("usage") or usage
                    self._take(row)
            if usage is None and not self._stopped:
                raise MoeMlxError(f"the server at {self._link.url} ended in the middle of its answer: ask again")
            receipt = self._broken_off(routing()) if usage is None else self._receipt(usage)
        except (OSError, ValueError, KeyError, TypeError, MoeMlxError, http.client.HTTPException) as error:
            if not self._stopped:
                self._publish(phase=IDLE, activity="", error=str(error) or type(error).__name__)
                return
            receipt = self._broken_off(routing())
        self._publish(
            phase=IDLE,
            activity="",
            text=self._written.text,
            reply=self._message,
            tokens=receipt.tokens,
            tps=receipt.tps,
            receipt=receipt,
            context=receipt.prompt_tokens + receipt.tokens,
        )

    def _take(self, row: Mapping[str, Any]) -> None:
        """Takes one chunk."""
        if "error" in row:
            raise MoeMlxError(str(row["error"]["message"]))
        for choice in row["choices"]:
            self._finish = choice.get("finish_reason") or self._finish
            thought, said = (choice["delta"].get(name) or "" for name in ("reasoning_content", "content"))
            if not thought and not said:
                continue
            self._first = self._first or time.monotonic()
            self._message["reasoning_content"] += thought
            self._message["content"] += said
            self._written.add([("reasoning", thought)] if thought else [("normal", said)])
            self._tokens += 1
            self._publish(phase=DECODE, activity="", text=self._written.text, tokens=self._tokens)

    def _receipt(self, usage: Mapping[str, Any]) -> TurnReceipt:
        """Returns what the server counted, decode's figures as its receipt has them."""
        took, prompt, tokens = usage["moe_mlx"], int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        reused, first = int(usage["prompt_tokens_details"]["cached_tokens"]), float(took["first_token_seconds"])
        decoding = max(1e-6, float(took["seconds"]) - first)
        own = {
            "tokens": tokens,
            "tps": max(0, tokens - 1) / decoding,
            "prompt_tokens": prompt,
            "reused_tokens": reused,
            "prompt_tps": (prompt - reused) / max(1e-6, first - float(took["queued_seconds"])),
            "finish": self._finish,
            "refilled": "",
            "profile": str(took.get("profile") or ""),
            "machines": tuple(describe_ranks(took.get("machines") or ())),
            "drafts": _drafts(took.get("drafts")),
            "bytes_read": int(took["bytes_read"]) + int(took["wasted_bytes"]),
        }
        return TurnReceipt(**{**{name: value for name, value in took.items() if name in _COUNTS}, **own})

    def _broken_off(self, routing: str) -> TurnReceipt:
        """Returns what is known of an answer that was stopped: the server sends its counts with the end alone."""
        now = time.monotonic()
        seconds = now - self._began
        decoding = max(1e-6, now - self._first) if self._first else 1.0
        return TurnReceipt(
            tokens=self._tokens,
            seconds=seconds,
            tps=max(0, self._tokens - 1) / decoding,
            prompt_tokens=0,
            reused_tokens=0,
            prompt_tps=0.0,
            finish="cancelled",
            refilled="",
            hit_rate=0.0,
            swapped_share=0.0,
            bytes_read=0,
            prompt_bytes_read=0,
            wait_seconds=0.0,
            routing=routing,
            counted=False,
        )


def _drafts(took: Mapping[str, Any] | None) -> str:
    """Returns what a server says of its drafts in a few words; "" where it made none."""
    if not took:
        return ""
    return short(int(took["accepted"]), int(took["drafted"]), took["gate"] == "open")
