"""A conversation's messages with every version of each: nothing that was said is lost to an edit or another answer.

A tree: what follows a message are the versions of the next one, one of them chosen. What is shown is the chosen path.
Knows no roles' meaning, no screen and no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from moe_mlx_tui.engine.snapshot import TurnReceipt

#: No version is chosen: the path ends before them.
NONE = -1


@dataclass
class Turn:
    """One message, and the versions of what follows it.

    Attributes:
        content: As it is shown.
        receipt: What an answer took.
        reply: An answer as the next prompt takes it, its reasoning and calls apart; empty where a file has none.
    """

    role: str = ""
    content: str = ""
    receipt: TurnReceipt | None = None
    reply: dict[str, Any] = field(default_factory=dict)
    after: list[Turn] = field(default_factory=list)
    chosen: int = NONE


#: What a user did at once, such as an edit with its answer: the turns that chose, and what each had chosen before.
Step = list[tuple[Turn, int]]


class Versions:
    """The tree, the path through it, and the way back, a step at a time."""

    def __init__(self) -> None:
        self.root = Turn()
        self._past: list[Step] = []
        self._undone: list[Step] = []
        self._opened = False  # the step under way waits for another version

    def path(self) -> list[Turn]:
        """Returns the messages of the chosen path."""
        found, turn = [], self.root
        while turn.chosen != NONE:
            turn = turn.after[turn.chosen]
            found.append(turn)
        return found

    def before(self, place: int) -> Turn:
        """Returns what stands before message `place`."""
        return self.path()[place - 1] if place else self.root

    def version(self, place: int) -> tuple[int, int]:
        """Returns which version of message `place` is chosen, from 1, and how many there are."""
        turn = self.before(place)
        return turn.chosen + 1, len(turn.after)

    def _choose(self, turn: Turn, chosen: int, *, goes_on: bool = False) -> None:
        if not goes_on or not self._past:
            self._past.append([])
        self._past[-1].append((turn, turn.chosen))
        self._undone.clear()
        self._opened = False
        turn.chosen = chosen

    def add(
        self, role: str, content: str, receipt: TurnReceipt | None = None, reply: Mapping[str, Any] | None = None
    ) -> None:
        """Adds a message at the path's end, beside what may stand there already; an answer is part of its step."""
        end = (self.path() or [self.root])[-1]
        end.after.append(Turn(role, content, receipt, dict(reply or {})))
        self._choose(end, len(end.after) - 1, goes_on=self._opened or role == "assistant")

    def drop(self) -> str:
        """Takes the path's last message out of the tree, as if it had not been said; returns its text."""
        *_, turn = [self.root, *self.path()[:-1]]
        text = turn.after.pop(turn.chosen).content
        turn.chosen = NONE
        if self._past and self._past[-1][-1][0] is turn:
            turn.chosen = self._past[-1].pop()[1]
            self._opened = bool(self._past[-1])
            if not self._opened:
                self._past.pop()
        return text

    def open(self, place: int) -> None:
        """Ends the path before message `place`, so that another version of it can be added."""
        self._choose(self.before(place), NONE)
        self._opened = True

    def browse(self, place: int, step: int) -> bool:
        """Chooses the version `step` further on, round and round; False where there is only one."""
        turn = self.before(place)
        if len(turn.after) < 2:
            return False
        self._choose(turn, (turn.chosen + step) % len(turn.after))
        return True

    def undo(self) -> int | None:
        """Goes back to the path before the last step; returns the first place that differs."""
        return self._swap(self._past, self._undone)

    def redo(self) -> int | None:
        """Takes an undo back; returns the first place that differs."""
        return self._swap(self._undone, self._past)

    def _swap(self, source: list[Step], target: list[Step]) -> int | None:
        if not source:
            return None
        step, back = source.pop(), Step()
        for turn, chosen in reversed(step):
            back.append((turn, turn.chosen))
            turn.chosen = chosen
        target.append(back)
        self._opened = False
        changed = [turn for turn, _ in step]
        on_path = enumerate([self.root, *self.path()])
        return next((place for place, found in on_path if any(found is turn for turn in changed)), 0)

    def rows(self) -> list[dict[str, Any]]:
        """Returns the tree as a list, each row naming its parent by number (0 is the beginning)."""
        found: list[dict[str, Any]] = [{"chosen": self.root.chosen}]
        waiting = [(self.root, 0)]
        while waiting:
            turn, number = waiting.pop()
            for child in turn.after:
                row: dict[str, Any] = {
                    "parent": number,
                    "role": child.role,
                    "content": child.content,
                    "chosen": child.chosen,
                }
                if child.receipt is not None:
                    row["receipt"] = asdict(child.receipt)
                if child.reply:
                    row["reply"] = child.reply
                found.append(row)
                waiting.append((child, len(found) - 1))
        return found

    @property
    def branched(self) -> bool:
        """Whether there is more than the chosen path."""
        return any(
            len(turn.after) > 1 or len(turn.after) != (turn.chosen != NONE) for turn in [self.root, *self.path()]
        )

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Versions:
        """Returns the tree of such a list.

        Raises:
            ValueError: a row names what is not there.
        """
        tree = cls()
        turns: list[Turn] = []
        for row in rows:
            receipt = row.get("receipt")
            turn = Turn(
                str(row.get("role", "")),
                str(row.get("content", "")),
                TurnReceipt(**receipt) if receipt else None,
                reply_in(row),
                chosen=int(row["chosen"]),
            )
            if turns:
                parent = int(row["parent"])
                if not 0 <= parent < len(turns):
                    raise ValueError(f"message {len(turns)} follows message {parent}, which is not there")
                turns[parent].after.append(turn)
            turns.append(turn)
        if not turns:
            raise ValueError("there is no message")
        if any(not NONE <= turn.chosen < len(turn.after) for turn in turns):
            raise ValueError("a version is chosen that is not there")
        tree.root = turns[0]
        return tree

    @classmethod
    def of_messages(cls, messages: Iterable[Mapping[str, Any]], receipts: Mapping[int, TurnReceipt]) -> Versions:
        """Returns the tree of messages in order, one version of each."""
        tree = cls()
        end = tree.root
        for place, message in enumerate(messages):
            turn = Turn(message["role"], message["content"], receipts.get(place), reply_in(message))
            end.after, end.chosen = [turn], 0
            end = end.after[0]
        return tree


def reply_in(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the answer that a row of a file has for the next prompt, empty where it has none.

    Raises:
        ValueError: it is no message of ours.
    """
    reply = row.get("reply")
    if reply is None:
        return {}
    if not isinstance(reply, dict) or reply.get("role") != "assistant" or not isinstance(reply.get("content"), str):
        raise ValueError("the reply of an answer is no message")
    return reply
