"""How much one browser may ask for. A web socket can say anything; none of it may cost the server its memory."""

from __future__ import annotations

#: Cells of a screen: 6,016 x 3,384 pixels, the largest display sold, in letters of 16 pixels.
COLUMNS, ROWS = (10, 640), (4, 200)
#: Bytes of one message; a longer paste is refused by the page, and a longer message ends its connection.
MESSAGE = 256 * 1024
#: Bytes of data a tab's process may hold, where the system enforces it.
TAB_MEMORY = 1_000_000_000
#: Tabs at once, unless the owner says otherwise.
TABS = 8
#: Seconds a tab has to leave before it is ended.
GRACE = 3.0


def within(value: object, bounds: tuple[int, int], default: int) -> int:
    """Returns a whole number held within bounds; `default` where it is none."""
    try:
        number = int(value) if isinstance(value, int | str) else default
    except ValueError:  # no number, or thousands of digits
        number = default
    return min(max(number, bounds[0]), bounds[1])
