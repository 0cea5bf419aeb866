"""What a server has done since it began, whichever models it did it with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """Counts of answers. Written by the generating thread alone.

    Attributes:
        answered: Answers that ended well.
        failed: Answers that ended in an error.
        failed_in_a_row: Of these, errors of the server's since the last good answer.
        generated: Tokens of all answers.
        changes: Times that another model was loaded.
    """

    answered: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    generated: int = 0
    changes: int = 0
