"""The server's log on standard error: lines for people, or a JSON object a line."""

from __future__ import annotations

import json
import logging
import sys
import time

from moe_mlx.system.terminal import harmless


class JsonLines(logging.Formatter):
    """One JSON object a record; the fields of a request stand beside its message's."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        row = {"time": stamp, "level": record.levelname.lower()}
        fields = getattr(record, "fields", None)
        row |= fields if isinstance(fields, dict) else {"message": record.getMessage()}
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return json.dumps(row, ensure_ascii=False, default=str)


class Lines(logging.Formatter):
    """Lines that a terminal shows and does not obey."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return harmless(super().format(record))


def set_up(level: str, form: str) -> None:
    """Sends the log to standard error.

    Args:
        level: "DEBUG" to "CRITICAL".
        form: "text" or "json".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Lines("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("uvicorn.error", "uvicorn", "asyncio", "httpx"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
