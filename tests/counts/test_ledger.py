"""The ledger counts every event once, also those that are logged while it reads."""

from __future__ import annotations

from moe_mlx.counts.event_log import DECODE, Event, EventLog
from moe_mlx.counts.ledger import Ledger


def write(log: EventLog, step: int, **more: int) -> None:
    log.write(step, DECODE, tokens=1, hits=3, misses=1, bytes_read=100, choices=4, **more)


class BusyLog(EventLog):
    """A log that another thread writes to while it is being read."""

    def __init__(self, late: list[int]) -> None:
        super().__init__()
        self.late = late

    def read(self, number: int) -> Event:
        event = super().read(number)
        if self.late:
            write(self, self.late.pop(0))
        return event


def test_events_logged_while_the_ledger_reads_are_counted_later():
    ledger = Ledger(1)
    ledger.logs[0] = log = BusyLog([2, 3, 4])
    write(log, 1)
    for _ in range(5):
        ledger.collect()
    assert [record.step for record in ledger.records] == [1, 2, 3, 4]
    assert ledger.totals(DECODE).choices == 16


def test_what_was_read_ahead_is_counted_beside_what_was_missed():
    ledger = Ledger(2)
    for log, hints in zip(ledger.logs, ((4, 1, 300), (0, 0, 0)), strict=True):
        write(log, 1, **dict(zip(("hinted", "hint_hits", "wasted_bytes"), hints, strict=True)))
    totals = ledger.totals(DECODE)
    assert (totals.hinted, totals.hint_hits, totals.wasted_bytes) == (4, 1, 300)
    assert (totals.hint_precision, totals.hint_recall) == (0.25, 0.5)
    assert (totals.bytes_read, totals.disk_bytes) == (200, 500)
    assert (totals - totals).hint_precision == (totals - totals).hint_recall == 0.0


def test_a_step_is_closed_when_every_layer_has_logged_it():
    ledger = Ledger(2)
    write(ledger.logs[0], 1)
    assert ledger.totals(DECODE).steps == 0
    write(ledger.logs[1], 1)
    assert (ledger.totals(DECODE).steps, ledger.totals(DECODE).hits, ledger.totals(DECODE).tokens) == (1, 6, 1)
    assert ledger.records[0].complete
