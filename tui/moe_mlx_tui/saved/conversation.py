"""The conversation as data: messages in their versions, its file, its exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moe_mlx.errors import StoreCorruptError, StoreMissingError
from moe_mlx_tui.engine.snapshot import TurnReceipt
from moe_mlx_tui.saved.versions import Versions

VERSION = 1
#: It becomes a file's name.
_IDENT = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]*", re.ASCII)


class Conversation:
    """Messages in order, user and assistant by turns; the system prompt stands apart.

    Attributes:
        ident: Name of its file.
        system: The system prompt, or "".
        model: What answered.
        versions: Every message in all its versions.
        name: The title that its user gave it, or "".
    """

    def __init__(
        self,
        ident: str = "",
        system: str = "",
        messages: Iterable[Mapping[str, Any]] = (),
        receipts: Mapping[int, TurnReceipt] | None = None,
        model: str = "",
        versions: Versions | None = None,
        name: str = "",
    ) -> None:
        self.ident = ident or datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        self.system, self.model, self.name = system, model, name
        self.versions = versions or Versions.of_messages(messages, receipts or {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Conversation) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages that are shown: `{"role": ..., "content": ...}`."""
        return [{"role": turn.role, "content": turn.content} for turn in self.versions.path()]

    @property
    def receipts(self) -> dict[int, TurnReceipt]:
        """Their receipts, by the number of the message they belong to."""
        path = self.versions.path()
        return {place: turn.receipt for place, turn in enumerate(path) if turn.receipt is not None}

    @property
    def title(self) -> str:
        """The title that its user gave it, or the first line that was said."""
        if self.name:
            return self.name
        for message in self.messages:
            if message["role"] == "user":
                return (message["content"].strip().splitlines() or [""])[0][:60]
        return "nothing said yet"

    def wire(self) -> tuple[dict[str, Any], ...]:
        """Returns the messages as the model gets them: of answers content, reasoning and calls, each apart."""
        head = [{"role": "system", "content": self.system}] if self.system else []
        turns = self.versions.path()
        return (*head, *(turn.reply or {"role": turn.role, "content": turn.content} for turn in turns))

    def say(self, text: str) -> int:
        """Adds a message of the user's; returns how many stood before it."""
        self.versions.add("user", text)
        return len(self.versions.path()) - 1

    def answered(self, text: str, receipt: TurnReceipt | None, reply: Mapping[str, Any] | None = None) -> None:
        """Adds the answer: as it is shown, and as the next prompt takes it."""
        self.versions.add("assistant", text, receipt, reply)

    def last(self, role: str) -> int | None:
        """Returns the place of the last message of the user's or the assistant's."""
        places = [place for place, message in enumerate(self.messages) if message["role"] == role]
        return places[-1] if places else None

    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [dict(message) for message in self.messages]
        for row, turn in zip(rows, self.versions.path(), strict=True):
            if turn.reply:
                row["reply"] = turn.reply
        return rows

    def to_json(self) -> str:
        """Returns the session's file."""
        body: dict[str, Any] = {
            "moe-mlx-session": VERSION,
            "ident": self.ident,
            "title": self.title,
            "name": self.name,
            "model": self.model,
            "system": self.system,
            "messages": self._rows(),
            "receipts": {str(place): asdict(receipt) for place, receipt in self.receipts.items()},
        }
        if self.versions.branched:
            body["versions"] = self.versions.rows()
        return json.dumps(body, ensure_ascii=False, indent=1)

    def to_markdown(self) -> str:
        """Returns the conversation for people."""
        parts = [f"# {self.title}", f"*{self.model}*"]
        if self.system:
            parts.append(f"> {self.system}")
        for place, message in enumerate(self.messages):
            who = "you" if message["role"] == "user" else self.model or "assistant"
            parts.append(f"## {who}\n\n{message['content'].strip()}")
            if (r := self.receipts.get(place)) is not None:
                counts = f", hit {r.hit_rate:.1%}, swapped {r.swapped_share:.1%}" if r.counted else ""
                parts.append(f"*{r.tokens} tokens, {r.tps:.1f}/s{counts}*")
        return "\n\n".join(parts) + "\n"


def load(path: Path) -> Conversation:
    """Reads a session.

    Raises:
        StoreMissingError: there is no such file.
        StoreCorruptError: it is no session of ours.
    """
    try:
        body: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if body["moe-mlx-session"] != VERSION:
            raise StoreCorruptError(f"{path} is of version {body['moe-mlx-session']}; this moe-mlx reads {VERSION}")
        if not _IDENT.fullmatch(str(body["ident"])):
            raise ValueError(f"{body['ident']!r} cannot be a session's name")
        return Conversation(
            ident=str(body["ident"]),
            system=str(body["system"]),
            model=str(body["model"]),
            messages=[{**m, "role": str(m["role"]), "content": str(m["content"])} for m in body["messages"]],
            receipts={int(place): TurnReceipt(**receipt) for place, receipt in body["receipts"].items()},
            versions=Versions.of_rows(body["versions"]) if "versions" in body else None,
            name=" ".join(str(body.get("name", "")).split()),
        )
    except OSError as error:
        raise StoreMissingError(f"no session at {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(f"{path} is no session of moe-mlx: {error}") from error


def export_name(conversation: Conversation, suffix: str) -> str:
    """Returns a file name made of the title."""
    slug = re.sub(r"[^a-z0-9]+", "-", conversation.title.lower()).strip("-")[:40]
    return f"moe-mlx-{slug or 'chat'}.{suffix}"
