"""Words that name a key and do what it does when they are clicked: a touch screen has no such key."""

from __future__ import annotations

from textual.content import Content
from textual.style import Style


def hint(words: str, action: str, look: str = "$foreground-muted") -> Content:
    """Returns the words, with one of the app's actions behind them."""
    return Content.styled(words, look).stylize(Style.from_meta({"@click": f"app.{action}"}))
