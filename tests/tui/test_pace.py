"""Drawing takes no more than its share while a model works, and what happened is shown at once."""

import pytest

from moe_mlx_tui.drawing.pace import Pace
from tests.tui.scene import chat, decode, over


class Clock:
    """Time and processor time as told."""

    def __init__(self):
        self.time = self.spent = 0.0

    def pace(self, share=0.05):
        return Pace(share, lambda: self.time, lambda: self.spent)


def frames(clock: Clock, cost: float, seconds: float, rate: float = 5) -> int:
    """Samples so many times a second; returns how many frames came."""
    pace, count = clock.pace(), 0
    for _ in range(int(seconds * rate)):
        clock.time += 1 / rate
        if pace.due:
            pace.take()
            clock.spent += cost
            count += 1
    return count


@pytest.mark.parametrize(("cost", "least", "most"), [(0.004, 50, 50), (0.015, 24, 25), (0.04, 16, 17), (9, 16, 17)])
def test_a_dear_frame_comes_as_often_as_it_may(cost: float, least: int, most: int):
    assert least <= frames(Clock(), cost, 10) <= most


async def test_the_app_leaves_snapshots_out_but_none_in_which_something_happened(tmp_path):
    clock = Clock()
    app = chat(decode("x"), tmp_path)
    async with app.run_test():
        app.pace = clock.pace()
        shown = []
        for frame in range(41, 46):
            clock.time += 0.2
            app.source.latest = decode("x", frame)
            await app._sample()
            clock.spent += 0.018 * (app.shown is app.source.latest)
            shown.append(app.shown.tokens)
        assert shown == [41, 41, 43, 43, 45]  # the first is the first of all
        clock.spent += 1
        app.source.latest = over(app.source.latest)
        await app._sample()
        assert app.shown is app.source.latest
