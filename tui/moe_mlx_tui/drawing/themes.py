"""Two themes of our own, dark and light; Textual's are there as well."""

from __future__ import annotations

from textual.theme import Theme

EMBER = Theme(
    name="ember",
    dark=True,
    primary="#f0a35e",
    secondary="#7a9fd6",
    accent="#5ec8b8",
    warning="#e6c15a",
    error="#ef6b73",
    success="#93c572",
    foreground="#d8dbe2",
    background="#101217",
    surface="#171a21",
    panel="#20242d",
    boost="#1b1f27",
    variables={
        "block-cursor-background": "#f0a35e",
        "border": "#3a4150",
        "border-blurred": "#2b313c",
        "input-selection-background": "#3c5a86",
    },
)
PAPER = Theme(
    name="paper",
    dark=False,
    primary="#a8521a",
    secondary="#2f5f9e",
    accent="#0d7468",
    warning="#8a6400",
    error="#b3262f",
    success="#3c7020",
    foreground="#23262d",
    background="#fbfaf7",
    surface="#f3f1ec",
    panel="#e6e3db",
    boost="#ece9e2",
    variables={"border": "#b9b4a8", "border-blurred": "#d3cec2"},
)
