"""What a model, a session or a recording says is shown, and obeyed by nobody: neither terminal nor app."""

import pytest
from textual.events import Paste
from textual.widgets import Collapsible

from moe_mlx_tui.engine.orders import Ask
from moe_mlx_tui.saved.conversation import Conversation
from tests.tui import scene

HOSTILE = "a\x1b]0;title\x07b\x1b[2J\x9b31m"
SIZE = (132, 40)


def on_screen(app) -> str:
    """Every character that goes to the terminal as text."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def unsafe(text: str) -> list[str]:
    return [character for character in text if (character < " " and character != "\n") or "\x7f" <= character < "\xa0"]


async def test_an_answer_s_escape_sequences_are_shown(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=SIZE) as pilot:
        await scene.show(app, pilot, scene.idle())
        text = f"<think>{HOSTILE}</think>said {HOSTILE} `code {HOSTILE}`"
        await scene.show(app, pilot, scene.over(await scene.converse(app, pilot, text=text)))
        assert "said a␛]0;title␇b␛[2J" in on_screen(app)
        assert not unsafe(on_screen(app))
        await app.workers.wait_for_complete()
    assert app.talk.messages[-1]["content"] == text, "what is kept is what was said"


async def test_a_session_s_and_an_engine_s_words_are_shown(tmp_path):
    talk = Conversation(model=HOSTILE, messages=[{"role": "user", "content": HOSTILE}])
    app = scene.chat(scene.idle(), tmp_path, conversation=talk)
    app.sessions.save(talk)
    async with app.run_test(size=SIZE) as pilot:
        from dataclasses import replace

        model = replace(scene.facts(), name=HOSTILE)
        words = {"remarks": (HOSTILE,), "remark_count": 1, "routing": HOSTILE, "activity": HOSTILE}
        await scene.show(app, pilot, replace(scene.idle(model), **words))
        assert not unsafe(on_screen(app))
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert not unsafe(on_screen(app))
        await pilot.press("escape", "ctrl+l")
        assert app.prompt.text.startswith("a␛]0;title")


async def test_a_paste_s_escape_sequences_are_shown_and_its_lines_kept(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=SIZE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.post_message(Paste(f"one\r\ntwo\r{HOSTILE}"))
        await pilot.pause()
        assert not unsafe(on_screen(app))
        await pilot.press("enter")
        await pilot.pause()
        order = app.source.orders[-1]
        assert isinstance(order, Ask) and order.messages[-1]["content"].startswith("one\ntwo\na␛]0;")


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("name", ["[@click=app.leave]press[/]", "[/nothing]", "[bold"])
async def test_a_tool_s_name_is_no_markup(tmp_path, name):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=SIZE) as pilot:
        await scene.show(app, pilot, scene.idle())
        text = f'<tool_call>{{"name": "{name}"}}</tool_call>'
        await scene.show(app, pilot, scene.over(await scene.converse(app, pilot, text=text)))
        assert app.query_one(Collapsible)
        assert f"tool call: {name}" in on_screen(app)
        await app.workers.wait_for_complete()
