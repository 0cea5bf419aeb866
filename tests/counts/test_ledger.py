"""The ledger counts every event once, also those that are logged while it reads."""

from __future__ import annotations

from array import array

from moe_mlx.counts.ledger import DECODE, EventLog, Ledger


def event(step: int) -> tuple[int, ...]:
    return (step, DECODE, 1, 3, 1, 0, 100, 0, 0, 4)


class BusyLog(EventLog):
    """A log that another thread writes to while it is being read."""

    def __init__(self, late: list[int]) -> None:
        super().__init__()
        self.late = late

    def read(self, number: int) -> tuple[array[int], float]:
        row = super().read(number)
        if self.late:
            self.write(event(self.late.pop(0)))
        return row


def test_events_logged_while_the_ledger_reads_are_counted_later():
    ledger = Ledger(1)
    ledger.logs[0] = log = BusyLog([2, 3, 4])
    log.write(event(1))
    for _ in range(5):
        ledger.collect()
    assert [record.step for record in ledger.records] == [1, 2, 3, 4]
    assert ledger.totals(DECODE).choices == 16


def test_what_was_read_ahead_is_counted_beside_what_was_missed():
    ledger = Ledger(2)
    for log, hints in zip(ledger.logs, ((4, 1, 300), (0, 0, 0)), strict=True):
        log.write((*event(1), 0, 0, *hints))
    totals = ledger.totals(DECODE)
    assert (totals.hinted, totals.hint_hits, totals.wasted_bytes) == (4, 1, 300)
    assert (totals.hint_precision, totals.hint_recall) == (0.25, 0.5)
    assert (totals.bytes_read, totals.disk_bytes) == (200, 500)
    assert (totals - totals).hint_precision == (totals - totals).hint_recall == 0.0


def test_a_step_is_closed_when_every_layer_has_logged_it():
    ledger = Ledger(2)
    ledger.logs[0].write(event(1))
    assert ledger.totals(DECODE).steps == 0
    ledger.logs[1].write(event(1))
    assert (ledger.totals(DECODE).steps, ledger.totals(DECODE).hits, ledger.totals(DECODE).tokens) == (1, 6, 1)
    assert ledger.records[0].complete
