"""Saved sessions by keys: searched, resumed, renamed, deleted and brought back, exported; and what was read of them."""

import json

import pytest

from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, Configure
from moe_mlx_tui.engine.snapshot import IDLE
from moe_mlx_tui.saved.conversation import Conversation, load
from moe_mlx_tui.saved.sessions import Sessions
from moe_mlx_tui.screens.sessions import SessionsScreen
from tests.tui import scene
from tests.tui.scene import WIDE, exchange
from tests.tui.waiting import until

SKY = [
    {"role": "user", "content": "Why is it blue?"},
    {"role": "assistant", "content": "Air.\nIt scatters waves."},
]
TEA = [{"role": "user", "content": "How long does tea take?"}, {"role": "assistant", "content": "Three minutes."}]


@pytest.fixture
def app(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Sessions(tmp_path / "sessions")
    kept.save(Conversation("20260101-100000-1", messages=SKY, model="demo", system="Be brief."))
    kept.save(Conversation("20260102-100000-1", messages=TEA, model="other"))
    return scene.chat(scene.idle(), tmp_path)


async def opened(app, pilot):
    """Opens the list."""
    await pilot.press("ctrl+s")
    await app.workers.wait_for_complete()
    await pilot.pause()
    assert isinstance(app.screen, SessionsScreen)


def listed(app):
    """The titles in the list."""
    return [talk.title for talk in app.screen._shown]


def said(app):
    """What stands below the list."""
    return str(app.screen.query_one("#detail").render())


async def test_a_search_finds_titles_and_messages_and_enter_goes_on(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await opened(app, pilot)
        assert listed(app) == ["How long does tea take?", "Why is it blue?"], "the latest first"
        await pilot.press(*"waves scatters")
        await pilot.pause()
        assert listed(app) == ["Why is it blue?"]
        line = str(app.screen.query_one("#list").get_option_at_index(0).prompt)
        assert "2026-01-01 10:00" in line and "It scatters waves." in line
        await pilot.press(*"xyz")
        await pilot.pause()
        assert listed(app) == [] and "no session holds these words" in said(app)
        await pilot.press("ctrl+u", *"BLUE", "enter")
        await pilot.pause()
        assert [message["content"] for message in app.talk.messages] == [row["content"] for row in SKY]
        assert app.system_line.display and app.transcript.last_answer.text == SKY[1]["content"]


async def test_another_title_is_given_and_kept(app, tmp_path):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await opened(app, pilot)
        await pilot.press("down", "ctrl+r", "ctrl+u", *"sky", "escape")
        assert listed(app)[1] == "Why is it blue?" and isinstance(app.screen, SessionsScreen)
        await pilot.press("ctrl+r", "ctrl+u", *"sky", "enter")
        await pilot.pause()
        assert listed(app) == ["How long does tea take?", "sky"]
        assert load(tmp_path / "sessions" / "20260101-100000-1.json").title == "sky"
        await pilot.press("enter")
        await pilot.pause()
        await exchange(app, pilot, "more", "yes")
        await opened(app, pilot)
        assert listed(app)[1] == "sky", "the next save keeps it"
        await pilot.press("down", "ctrl+r", "ctrl+u", "enter")
        await pilot.pause()
        assert listed(app)[1] == "Why is it blue?" and app.talk.name == "", "and the open session knows"
        await pilot.press("escape", *"/rename blue sky", "enter")
        await app.workers.wait_for_complete()
        assert load(tmp_path / "sessions" / "20260101-100000-1.json").title == "blue sky"


async def test_a_deleted_session_can_be_brought_back_and_the_open_one_stays(app, tmp_path):
    file = tmp_path / "sessions" / "20260102-100000-1.json"
    before = file.read_text()
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await opened(app, pilot)
        await pilot.press("ctrl+d")
        await pilot.pause()
        assert listed(app) == ["Why is it blue?"] and not file.exists() and "Ctrl+B brings it back" in said(app)
        await pilot.press("ctrl+b")
        await pilot.pause()
        assert len(listed(app)) == 2 and file.read_text() == before
        await pilot.press("ctrl+b")
        await pilot.pause()
        assert "nothing was deleted" in said(app)
        await pilot.press("enter")
        await pilot.pause()
        await opened(app, pilot)
        await pilot.press("ctrl+d")
        await pilot.pause()
        assert "this session is open" in said(app) and file.exists()
        await pilot.press("down", "ctrl+d", "escape")
        await opened(app, pilot)
        assert listed(app) == ["How long does tea take?"]


async def test_a_session_is_exported_from_the_list_and_hints_are_clicked(app, tmp_path):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await opened(app, pilot)
        await pilot.press("down", "ctrl+x")
        await pilot.pause()
        text = (tmp_path / "moe-mlx-why-is-it-blue.md").read_text()
        assert text.startswith("# Why is it blue?") and "> Be brief." in text and "It scatters" in text
        keys = app.screen.query_one(".keys")
        assert await pilot.click(keys, offset=(str(keys.render()).index("deletes"), 0))
        await pilot.pause()
        assert listed(app) == ["How long does tea take?"]


async def test_what_is_no_session_is_counted_and_named_nowhere_else(app, tmp_path):
    (tmp_path / "sessions" / "20260103-0.json").write_text("{")
    climbing = json.loads((tmp_path / "sessions" / "20260101-100000-1.json").read_text()) | {"ident": "../../x"}
    (tmp_path / "sessions" / "20260104-0.json").write_text(json.dumps(climbing))
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await opened(app, pilot)
        assert len(listed(app)) == 2 and "2 files there can not be read" in said(app)
        assert "off" in app.screen.query_one(".dialog").border_subtitle, "whether prompts are kept is said"
    with pytest.raises(Exception, match="cannot be a session's name"):
        load(tmp_path / "sessions" / "20260104-0.json")


@pytest.fixture
def running(arguments, tmp_path):
    """Starts engines with prompt caches on disk, one after another."""
    engines = []

    def run(*more):
        for before in engines:
            before.close()
        engine = Engine(arguments("--decode", "readback", "--prompt-store", str(tmp_path / "caches"), *more))
        engines.append(engine)
        engine.start()
        until(engine, lambda s: s.phase == IDLE)
        return engine

    yield run
    for engine in engines:
        engine.close()


def asked(engine, turn, *contents):
    """Asks for an answer to these messages, by turns; returns its snapshot."""
    roles = ("user", "assistant")
    messages = tuple({"role": roles[place % 2], "content": text} for place, text in enumerate(contents))
    ask = Ask(turn, len(contents) - 1, messages)
    found = until(engine, lambda s: s.turn == turn and (s.receipt or s.error), lambda: engine.submit(ask))
    assert not found.error, found.error
    return found


LONG = "word and word " * 30


def test_a_session_goes_on_after_a_restart_without_being_read_again(running):
    engine = running("--routing", "exact")
    first = asked(engine, "a", LONG)
    assert dict(first.settings.loading)["prompt_store"] != "off"
    other = asked(engine, "b", "something else " * 30)
    assert other.receipt.reused_tokens < 10
    engine = running("--routing", "exact")
    again = asked(engine, "c", LONG, first.text, "go on")
    assert again.receipt.reused_tokens >= first.receipt.prompt_tokens, "the session left for another one was kept too"


def test_what_was_read_under_another_routing_is_not_taken(running):
    engine = running("--routing", "cache-prior")
    first = asked(engine, "a", LONG)
    until(engine, lambda s: "exact" in s.routing, lambda: engine.submit(Configure(routing={"routing": "exact"})))
    again = asked(engine, "b", LONG, first.text, "go on")
    assert again.receipt.reused_tokens == 0
    engine = running("--routing", "exact")
    once_more = asked(engine, "c", LONG, first.text, "go on", again.text, "more")
    assert once_more.receipt.reused_tokens >= again.receipt.prompt_tokens
