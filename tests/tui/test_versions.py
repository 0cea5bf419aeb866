"""Nothing is destroyed by a habit: versions of answers and messages, undo, any turn, errors that are survived."""

import json
from dataclasses import replace

import pytest
from textual.widgets import Static

from moe_mlx.errors import StoreCorruptError
from moe_mlx_tui.engine.orders import Ask
from moe_mlx_tui.saved.conversation import Conversation, load
from moe_mlx_tui.saved.versions import NONE, Versions
from tests.tui import scene

WIDE = (132, 40)


@pytest.fixture
def app(tmp_path):
    return scene.chat(scene.idle(), tmp_path)


async def answered(app, pilot, text):
    """Ends the answer under way."""
    await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, text)))
    await app.workers.wait_for_complete()


async def exchange(app, pilot, text, answer):
    """Types a message and answers it."""
    await pilot.press(*text, "enter")
    await pilot.pause()
    await answered(app, pilot, answer)


def said(app):
    """The conversation's texts, and those on the screen."""
    shown = [turn.text for turn in app.transcript.placed]
    assert shown == [message["content"] for message in app.talk.messages], "the screen shows the conversation"
    return shown


def mark_of(app, place):
    """What is written beside the name of a turn."""
    turn = app.transcript.placed[place]
    line = turn.content if place % 2 == 0 else turn.query_one(".who", Static).content
    return str(line).splitlines()[0]


async def test_another_answer_is_another_version(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        assert mark_of(app, 1) == "demo"
        await pilot.press("ctrl+r")
        await pilot.pause()
        await answered(app, pilot, "two")
        assert said(app) == ["hello", "two"] and mark_of(app, 1) == "demo  ‹ 2/2 ›"
        await exchange(app, pilot, "more", "three")
        await pilot.press("shift+tab", "up", "up", "left")
        await pilot.pause()
        assert said(app) == ["hello", "one"] and mark_of(app, 1) == "demo  ‹ 1/2 ›"
        await pilot.press("right")
        await pilot.pause()
        assert said(app) == ["hello", "two", "more", "three"], "what followed a version comes with it"
        await app.workers.wait_for_complete()
        kept = app.sessions.open("latest")
        assert [m["content"] for m in kept.messages] == said(app) and kept.versions.version(1) == (2, 2)


async def test_a_click_on_the_arrows_browses(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        await pilot.press("ctrl+r")
        await pilot.pause()
        await answered(app, pilot, "two")
        who = app.transcript.last_answer.query_one(".who", Static)
        await pilot.click(who, offset=(len("demo  "), 0))
        await pilot.pause()
        assert said(app) == ["hello", "one"]


async def test_an_edit_forks_and_the_old_message_stays(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        await pilot.press(*"draft", "ctrl+l")
        await pilot.pause()
        assert app.prompt.text == "hello" and app.prompt.editing
        await pilot.press(*" you", "enter")
        await pilot.pause()
        assert app.source.orders[-1].messages == ({"role": "user", "content": "hello you"},)
        assert app.prompt.text == "draft" and not app.prompt.editing
        await answered(app, pilot, "two")
        assert said(app) == ["hello you", "two"] and mark_of(app, 0) == "you  ‹ 2/2 ›"
        app.prompt.clear()
        await pilot.press("ctrl+b")
        await pilot.pause()
        assert said(app) == ["hello", "one"], "an edit and its answer are one step"
        await app.run_action("redo")
        assert said(app) == ["hello you", "two"]
        await pilot.press("ctrl+b", "ctrl+b")
        await pilot.pause()
        assert said(app) == [] and app.welcome.is_attached
        await app.run_action("redo")
        assert said(app) == ["hello", "one"], "so are a message and its answer"


async def test_escape_leaves_an_edit_and_the_draft_as_they_were(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        await pilot.press(*"draft", "ctrl+l", "x", "escape")
        await pilot.pause()
        assert said(app) == ["hello", "one"] and app.prompt.text == "draft"
        assert app.talk.versions.version(0) == (1, 1) and len(app.source.orders) == 1


async def test_any_turn_is_answered_again_and_edited(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        for number in range(3):
            await exchange(app, pilot, f"q{number}", f"a{number}")
        await pilot.press("shift+tab", *["up"] * 4, "r")
        await pilot.pause()
        order = app.source.orders[-1]
        assert isinstance(order, Ask) and order.at == 0 and len(order.messages) == 1
        await answered(app, pilot, "another")
        assert said(app) == ["q0", "another"]
        await pilot.press("ctrl+b")
        await pilot.pause()
        assert said(app) == ["q0", "a0", "q1", "a1", "q2", "a2"], "one key brings the answer before back"
        await pilot.click(app.transcript.placed[2])
        await pilot.press("e")
        await pilot.pause()
        assert app.prompt.text == "q1" and said(app) == ["q0", "a0"]
        await pilot.press("x", "enter")
        await pilot.pause()
        assert app.source.orders[-1].at == 2 and app.source.orders[-1].messages[-1]["content"] == "q1x"


async def test_picked_it_is_copied(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        await pilot.press("shift+tab", "up", "y")
        assert app.clipboard == "hello"
        await pilot.press("down", "y")
        assert app.clipboard == "one"


@pytest.mark.parametrize("error", ["it broke; do this", ""])
async def test_a_failed_second_answer_brings_the_first_back(app, error):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        await pilot.press("ctrl+r")
        await pilot.pause()
        if error:
            await scene.show(app, pilot, replace(scene.idle(), turn=app.turn, error=error))
        else:
            await answered(app, pilot, "")
        assert said(app) == ["hello", "one"] and app.prompt.text == "" and app.talk.versions.version(1) == (1, 1)


async def test_the_turns_stay_in_place_after_an_error(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")
        await pilot.press(*"bad", "enter")
        await pilot.pause()
        await scene.show(app, pilot, replace(scene.idle(), turn=app.turn, error="it broke; do this"))
        assert app.prompt.text == "bad"
        await pilot.press("enter")
        await pilot.pause()
        await answered(app, pilot, "good")
        assert said(app) == ["hello", "one", "bad", "good"] and app.talk.versions.version(2) == (1, 1)


async def test_the_help_names_undo_and_versions(app):
    from moe_mlx_tui.screens.help import CHAT, TURNS

    words = " ".join(f"{key} {text}" for key, text in (*CHAT, *TURNS))
    assert "Ctrl+B undo" in words and "versions of it (2/2)" in words and "Ctrl+Z suspend" in words


async def test_an_unexpected_error_ends_neither_app_nor_conversation(app, tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_MLX_HOME", str(tmp_path))
    app.survives_headless = True
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "hello", "one")

        def broken(*args, **options):
            raise RuntimeError("strange [x]")

        for thing, name in ((app, "action_thinking"), (app.transcript, "action_pick"), (app.prompt, "action_newline")):
            monkeypatch.setattr(thing, name, broken)
        for keys in (["ctrl+t"], ["shift+tab", "up"], ["escape", "ctrl+j"]):
            await pilot.press(*keys)
            await pilot.pause()
        await app._sample()
        monkeypatch.setattr(app.side, "show", broken)
        app.source.latest = scene.idle()
        await app._sample()
        await pilot.pause()
        assert app.is_running and [*app._notifications][-1].message.startswith("Something went wrong (RuntimeError")
        assert len(app._notifications) >= 3
        assert "strange [x]" in (tmp_path / "errors.log").read_text()
        monkeypatch.undo()
        app.focus_entry()
        await exchange(app, pilot, "more", "two")
        assert said(app) == ["hello", "one", "more", "two"]


async def test_ctrl_z_suspends_and_typing_is_undone_by_another_key(app, monkeypatch):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"abc", "ctrl+z")
        await pilot.pause()
        assert app.prompt.text == "abc" and "suspended" in [*app._notifications][-1].message
        called = []
        monkeypatch.setattr(type(app._driver), "can_suspend", True)
        monkeypatch.setattr(app, "action_suspend_process", lambda: called.append(True))
        await pilot.press("ctrl+z")
        assert called == [True]
        await pilot.press("ctrl+underscore")
        assert app.prompt.text == ""


def test_versions_are_kept_in_the_file_and_refused_where_they_make_no_sense(tmp_path):
    talk = Conversation(model="demo")
    path = tmp_path / "s.json"
    talk.say("a")
    talk.answered("b", None)
    assert "versions" not in json.loads(talk.to_json()), "an unbranched session is as it always was"
    talk.versions.open(1)
    talk.answered("c", None)
    talk.versions.open(0)
    talk.say("d")
    path.write_text(talk.to_json())
    again = load(path)
    assert again == talk and again.messages == [{"role": "user", "content": "d"}]
    again.versions.browse(0, 1)
    again.versions.browse(1, -1)
    assert [m["content"] for m in again.messages] == ["a", "b"]
    body = json.loads(path.read_text())
    for change in ({"parent": 99}, {"chosen": 7}, {"chosen": -2}):
        broken = dict(body, versions=[*body["versions"][:-1], body["versions"][-1] | change])
        path.write_text(json.dumps(broken))
        with pytest.raises(StoreCorruptError, match="no session of moe-mlx"):
            load(path)


def test_a_long_conversation_has_no_depth(tmp_path):
    talk = Conversation()
    for number in range(1500):
        talk.versions.add("user" if number % 2 == 0 else "assistant", str(number))
        if number == 700:
            talk.versions.drop()
            talk.versions.add("user", "another")
    talk.versions.open(1499)
    (tmp_path / "s.json").write_text(talk.to_json())
    assert len(load(tmp_path / "s.json").messages) == 1499
    assert Versions().path() == [] and Versions().root.chosen == NONE
