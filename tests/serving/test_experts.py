"""The live map as events, and the app's source that reads it: what it shows is what the server holds."""

import pytest

from moe_mlx.errors import MoeMlxError
from moe_mlx_tui.drawing.cells import ABSENT, EVICTED
from moe_mlx_tui.engine.orders import Ask, Reset
from moe_mlx_tui.engine.snapshot import CLOSED, IDLE
from moe_mlx_tui.web.attached_source import AttachedSource
from tests.serving.running import Running, served, until, user

QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."


def test_the_map_and_the_gauges_are_the_server_s(running: Running):
    source = AttachedSource(running.url)
    source.start()
    try:
        before = running.chat("What is 7 plus 8?", max_tokens=8)["usage"]["moe_mlx"]
        until(lambda: source.latest.running.hits >= before["hits"] and source.latest.phase == IDLE)
        now = source.latest
        assert now.model is not None and now.model.name == "demo" and now.model.experts == (32,) * 8
        assert len(now.cells) == 256 and now.slots_per_layer == (16,) * 8
        resident = sum(cell not in (ABSENT, EVICTED) for cell in now.cells)
        assert 0 < resident <= 128
        assert now.routing == "exact" and now.memory.expert_slots > 0
        assert sum(now.layer_hits) == now.running.hits and sum(now.layer_misses) == now.running.misses
    finally:
        source.close()


def test_the_app_talks_to_it_and_changes_nothing_of_its_owner_s(running: Running):
    source = AttachedSource(running.url)
    source.start()
    try:
        source.submit(Ask("one", 0, (user(QUESTION),)))
        until(lambda: source.latest.text == ANSWER and source.latest.phase == IDLE)
        source.submit(Reset())
        until(lambda: any("whoever runs it" in line for line in source.latest.remarks))
    finally:
        source.close()


def test_a_server_that_ends_or_is_not_there_is_told():
    with pytest.raises(MoeMlxError, match="no server answers"):
        AttachedSource("http://127.0.0.1:1")
    with served("--api-key", "a-key-of-some-length") as server:
        with pytest.raises(MoeMlxError, match="API key"):
            AttachedSource(server.url)
        source = AttachedSource(server.url, "a-key-of-some-length")
        source.start()
        until(lambda: source.latest.phase == IDLE)
    until(lambda: source.latest.phase == CLOSED)
    assert source.latest.error
