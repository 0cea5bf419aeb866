"""Two routings side by side: one command, both receipts, the first token that differs marked."""

import asyncio
from dataclasses import replace

from textual.widgets import Static

from moe_mlx_tui.engine.orders import Compare, Stop, from_row, to_row
from moe_mlx_tui.engine.shared_engine import SharedEngine
from moe_mlx_tui.engine.snapshot import Column, Compared
from moe_mlx_tui.recording.codec import decode, encode
from moe_mlx_tui.screens.compare import CompareScreen, told, verdict
from moe_mlx_tui.web.remote_source import RemoteSource
from tests.tui import scene
from tests.tui.waiting import until

RECEIPT = scene.over(scene.decode("x")).receipt
SAID = Compared(
    "compare-1",
    (
        Column("exact", ("A ", "boot", " flies"), RECEIPT),
        Column("cache-prior lambda 0.2", ("A ", "boat", "."), RECEIPT),
    ),
    parted=1,
    over=True,
)
ASKED = ({"role": "user", "content": "tell me something"},)


def test_the_token_that_differs_is_marked_and_words_say_where():
    for column, there in zip(SAID.columns, ("boot", "boat"), strict=True):
        content = told(column, SAID.parted)
        assert f"A ▸{there}" in content.plain
        (span,) = (span for span in content.spans if "reverse" in str(span.style))
        assert content.plain[span.start : span.end] == f"▸{there}"
    assert told(Column("exact", ("A ",)), 1).plain == "A ▸(ends here)"
    assert verdict(SAID).plain == "they part at token 2"
    assert verdict(replace(SAID, parted=None)).plain == "the same 3 tokens"
    assert "what to do" in verdict(replace(SAID, error="it broke; what to do")).plain
    assert told(Column("exact", ("\x1b]0;title\x07[b]x[/b]",)), None).plain.count("\x1b") == 0


def test_it_crosses_sockets_and_recordings_whole():
    snapshot = replace(scene.idle(), compared=SAID)
    assert decode(encode(snapshot, None), None).compared == SAID
    assert decode(encode(scene.idle(), snapshot), snapshot).compared is None
    order = Compare("t", ASKED, ("exact", "lambda 0.2"))
    assert from_row(to_row(order)) == order


async def test_one_command_shows_both(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(132, 40)) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.action_compare()
        await pilot.pause()
        assert app.source.orders == [] and "Say something first" in next(iter(app._notifications)).message
        await pilot.press(*"hello", "enter")
        await pilot.pause()
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, "An answer.")))
        await pilot.press(*"/compare exact | lambda 0.2", "enter")
        await pilot.pause()
        order = app.source.orders[-1]
        assert isinstance(order, Compare) and order.routings == ("exact", "lambda 0.2")
        assert [message["content"] for message in order.messages] == ["hello"], "the message, and not its answer"
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        growing = replace(
            SAID, turn=order.turn, columns=(SAID.columns[0], Column("lambda 0.2")), parted=None, over=False
        )
        await scene.show(app, pilot, replace(scene.idle(), compared=growing))
        await pilot.press("escape")
        await pilot.pause()
        assert app.source.orders[-1] == Stop(order.turn) and app.screen is screen, "first it stops"
        await scene.show(app, pilot, replace(scene.idle(), compared=replace(SAID, turn=order.turn)))
        assert "they part at token 2" in str(screen.query_one("#verdict", Static).content)
        assert "A ▸boat." in str(screen.query_one("#text1", Static).content)
        for number in (0, 1):
            assert "40 tokens" in str(screen.query_one(f"#receipt{number}", Static).content)
        left, right = (screen.query_one(f"#side{number}").region for number in (0, 1))
        assert left.y == right.y and left.right <= right.x
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is not screen and len(app.talk.messages) == 2, "the conversation is as it was"


async def test_left_out_it_is_exact_against_what_is_in_force(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(60, 20)) as pilot:
        await scene.show(app, pilot, scene.idle())
        await app.ask("hello")
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, "An answer.")))
        app.action_compare()
        await pilot.pause()
        assert app.source.orders[-1].routings == ("exact", "cache-prior lambda 0.1")
        upper, lower = (app.screen.query_one(f"#side{number}").region for number in (0, 1))
        assert upper.x == lower.x and upper.bottom <= lower.y, "one below the other where it is narrow"


async def test_a_real_model_answers_twice_and_stays_as_it_was(engine):
    before = await asyncio.to_thread(until, engine, lambda s: s.phase == "idle")
    order = Compare("both", ASKED, ("exact", "lambda 1"))

    def over(snapshot):
        return snapshot.compared is not None and snapshot.compared.over

    shown = await asyncio.to_thread(until, engine, over, lambda: engine.submit(order))
    one, other = shown.compared.columns
    assert not shown.compared.error and shown.phase == "idle" and shown.routing == before.routing
    assert one.receipt.routing == "exact" and other.receipt.routing == "cache-prior lambda 1"
    assert len(one.pieces) == one.receipt.tokens == 12 and one.receipt.swapped_share == 0
    refused = replace(order, turn="refused", routings=("exact", "lambda 7"))
    shown = await asyncio.to_thread(
        until, engine, lambda s: over(s) and s.compared.turn == "refused", lambda: engine.submit(refused)
    )
    assert "0 to 1" in shown.compared.error and shown.routing == before.routing


def test_another_screen_does_not_see_it(tmp_path):
    still = scene.Still(replace(scene.idle(), compared=SAID))
    home = SharedEngine(still, tmp_path / "s")
    home.start()
    one = RemoteSource(tmp_path / "s")
    one.start()
    assert until(one, lambda s: s.model is not None).compared is None
    for source in (one, home):
        source.close()


async def test_news_may_come_while_the_screen_is_taken_apart(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(132, 40)) as pilot:
        screen = CompareScreen("compare-1", lambda: None)
        screen.show(SAID)  # pushed, and not built yet
        await app.push_screen(screen)
        await pilot.pause()
        await screen.remove_children()
        screen.show(replace(SAID, error="it broke; what to do"))
        app.pop_screen()
