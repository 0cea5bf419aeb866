"""A counter is named once in Python and once in C++, and everything that is shown follows."""

from __future__ import annotations

import re
from pathlib import Path

import moe_mlx
from moe_mlx.conversation.receipt import Receipt
from moe_mlx.counts.event_log import DECODE, EventLog
from moe_mlx.counts.ledger import Ledger
from moe_mlx.counts.totals import LOGGED, NAMES, PhaseTotals


def test_the_rows_of_the_primitive_have_the_same_fields():
    text = (Path(moe_mlx.__file__).parent / "native" / "core" / "event.h").read_text()
    assert tuple(re.findall(r"^\s+FIELD\((\w+)\)", text, re.MULTILINE)) == EventLog.FIELDS


def test_every_counter_that_is_logged_reaches_totals_receipt_and_json():
    ledger = Ledger(1)
    logged = {one.event_field: place * one.per for place, one in enumerate(LOGGED, start=2)}
    ledger.logs[0].write(1, DECODE, weight_moved=0.5, **logged)
    totals = ledger.totals(DECODE)
    expected = {one.total: place for place, one in enumerate(LOGGED, start=2)} | {"steps": 1, "weight_moved": 0.5}
    assert {name: getattr(totals, name) for name in NAMES} == expected
    receipt = Receipt.of(totals, PhaseTotals(), 0, "exact")
    assert {name: receipt.as_dict()[name] for name in NAMES} == expected


def test_a_receipt_tells_who_was_late_and_the_waits_that_saved():
    counted = PhaseTotals(
        steps=9, tokens=9, hits=60, misses=40, late=25, late_weight=3.125, read_waits=8, waits_saved=6
    )
    told = Receipt.of(counted, PhaseTotals(), 0, "exact, light late beyond 0.6").describe()
    assert "late 25 of 100 (weight 3.12, 6 waits saved)" in told
    assert "exact, light late beyond 0.6" in told
    assert "waits saved" not in Receipt.of(PhaseTotals(hits=60, misses=40), PhaseTotals(), 0, "exact").describe()


def test_totals_are_recorded_as_a_list_so_new_ones_go_to_the_end():
    recorded = (
        "steps",
        "tokens",
        "hits",
        "misses",
        "swapped",
        "bytes_read",
        "wait_seconds",
        "read_backs",
        "weight_moved",
        "choices",
        "waits",
        "host_seconds",
        "hinted",
        "hint_hits",
        "wasted_bytes",
    )
    assert NAMES[: len(recorded)] == recorded
