"""Drafts in the app: what the screen tells of them, and what cannot be changed beside them."""

from dataclasses import replace

from moe_mlx_tui.attached.answer import _drafts
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, Configure
from moe_mlx_tui.engine.snapshot import IDLE
from tests.tui import scene
from tests.tui.waiting import until


def test_the_engine_tells_of_drafts_and_refuses_another_routing(arguments, tiny):
    engine = Engine(arguments("--draft-model", str(tiny), "--decode", "readback"))
    engine.start()
    try:
        before = until(engine, lambda s: s.phase == IDLE)
        assert before.routing == "exact" and before.drafts == "drafts 0/0"
        ask = Ask("one", 0, ({"role": "user", "content": "tell me"},))
        found = until(engine, lambda s: s.turn == "one" and (s.receipt or s.error), lambda: engine.submit(ask))
        assert not found.error and found.receipt.drafts.startswith("drafts ")
        assert found.answer.tokens >= found.receipt.tokens and found.prefill.tokens == found.receipt.prompt_tokens - 1
        change = Configure(routing={"routing": "max-rank"})
        after = until(engine, lambda s: s.remark_count > found.remark_count, lambda: engine.submit(change))
        assert "verified with exact routing" in after.remarks[-1] and after.routing == "exact"
    finally:
        engine.close()


async def test_status_line_and_stats_say_whether_drafts_are_off(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(160, 44)) as pilot:
        words = {"drafts": "drafts 84/120 (off)", "gate": "drafts are off: 1.2 MB a token with, 0.8 MB without"}
        await scene.show(app, pilot, replace(scene.idle(), **words))
        assert "drafts 84/120 (off)" in app.status.render().plain
        await pilot.press(*"/stats", "enter")
        await pilot.pause()
        said = str(app.screen.query_one(".dialog Static").render())
        assert words["drafts"] in said and words["gate"] in said


def test_a_server_s_receipt_tells_of_them_too():
    assert _drafts({"accepted": 3, "drafted": 9, "gate": "closed"}) == "drafts 3/9 (off)"
    assert _drafts({"accepted": 3, "drafted": 9, "gate": "open"}) == "drafts 3/9"
    assert _drafts(None) == ""
