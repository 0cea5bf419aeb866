"""Several machines on the screen: a line each in place of one machine's memory, in /stats, under the answer."""

import json
from dataclasses import replace

from moe_mlx_tui.engine.snapshot import Machine, TurnReceipt
from moe_mlx_tui.recording.codec import decode, encode
from moe_mlx_tui.screens.stats import machine_rows
from moe_mlx_tui.widgets.answer_view import receipt_line
from moe_mlx_tui.widgets.machine_lines import MachineLines
from moe_mlx_tui.widgets.memory_bars import MemoryBars
from tests.tui import scene

ONE = Machine(0, "rank 0 (10.0.0.1)", 4, 7, 30, 10, 10**6, 0.5, 10**9, 2 * 10**9, 8 * 10**9, 0.0)
TWO = replace(ONE, rank=1, name="rank 1 (10.0.0.2)", first=0, last=3)


def text(lines) -> list[str]:
    return [line.plain for line in lines]


def test_rates_are_of_a_second_at_least():
    lines = MachineLines()
    before = replace(scene.decode("x"), machines=(ONE, TWO), time=10.0)
    lines.take(before)
    lines.take(replace(before, time=10.5, machines=(replace(ONE, bytes_read=9 * 10**6), TWO)))
    assert "0 B/s" in text(lines.lines((ONE, TWO), 80, 4, plain=False))[0], "half a second is no rate"
    now = (replace(ONE, bytes_read=9 * 10**6, waited=0.9), TWO)
    lines.take(replace(before, time=12.0, machines=now))
    one, two = text(lines.lines(now, 80, 4, plain=False))
    assert one.startswith("rank 0") and "2.0 GB · 4.0 MB/s · waits 20%" in one and "0 B/s · waits 0%" in two


def test_a_machine_that_is_silent_says_so_and_those_without_room_are_counted():
    lines = MachineLines()
    machines = tuple(replace(ONE, rank=rank) for rank in range(6))
    lines.take(replace(scene.decode("x"), machines=machines))
    assert text(lines.lines(machines, 80, 4, plain=True))[-1] == "and 3 more: /stats"
    silent = (ONE, replace(TWO, silent=7.2))
    lines.take(replace(scene.decode("x"), machines=silent))
    assert "not heard for 7 s: rank 1 (10.0.0.2)" in text(lines.lines(silent, 80, 4, plain=True))[1]


async def test_machines_take_the_place_of_one_machine_s_memory(tmp_path):
    app = scene.chat(scene.idle(scene.facts()), tmp_path)
    async with app.run_test(size=(150, 44)) as pilot:
        for frame in (39, 40):
            await scene.show(app, pilot, scene.decode("x", frame))
        bars = app.query_one(MemoryBars)
        assert bars.border_title == "memory"
        for frame in (41, 42):  # figures are drawn every other frame
            await scene.show(app, pilot, replace(scene.decode("x", frame), machines=(ONE, TWO)))
        assert bars.border_title == "machines"
        assert [line[:6] for line in bars.render().plain.splitlines()] == ["rank 0", "rank 1"]


def test_machines_go_through_recordings_and_are_harmless():
    now = replace(scene.decode("x"), machines=(ONE, replace(TWO, name="rank 1 (\x1b[31m)")))
    came = decode(json.loads(json.dumps(encode(now, None))), None)
    assert came == now and "\x1b" not in came.machines[1].name


def test_stats_and_receipts_name_each_machine():
    assert ("layers", "0-3") in machine_rows(TWO) and ("hit", "30 (75.0%)") in machine_rows(TWO)
    receipt = TurnReceipt(3, 1.0, 3.0, 5, 0, 9.0, "stop", "", 0.5, 0.0, 10, 10, 0.1, "exact")
    told = replace(receipt, machines=["rank 0: layers 4-7", "rank 1: layers 0-3\x1b[2J"])
    assert receipt_line(told).plain.splitlines()[1] == "rank 0: layers 4-7"
    assert "\x1b" not in receipt_line(told).plain and "rank" not in receipt_line(receipt).plain
