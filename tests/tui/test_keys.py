"""Every key of the chat, the map and the replay does what the help says."""

import json
from dataclasses import replace

import pytest
from textual.widgets import Collapsible, Input, TextArea

from moe_mlx_tui.base_app import MoeApp
from moe_mlx_tui.drawing.cells import USED
from moe_mlx_tui.engine.orders import Ask, Configure, Reset, Stop
from moe_mlx_tui.recording.player import Player
from moe_mlx_tui.recording.recording import Recorder, Recording
from moe_mlx_tui.recording.replay_app import ReplayApp
from moe_mlx_tui.saved.conversation import Conversation
from moe_mlx_tui.screens.help import HelpScreen
from moe_mlx_tui.screens.sessions import SessionsScreen
from moe_mlx_tui.screens.settings import SettingsScreen
from moe_mlx_tui.screens.system_prompt import SystemPromptScreen
from tests.tui import scene

WIDE, NARROW = (132, 40), (80, 24)


@pytest.fixture
def app(tmp_path):
    return scene.chat(scene.idle(), tmp_path)


async def answered(app, pilot, text="An answer."):
    """Ends the answer under way."""
    await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, text)))
    await app.workers.wait_for_complete()


async def sent(app, pilot, text="hello"):
    """Types a message and sends it."""
    await pilot.press(*text, "enter")
    await pilot.pause()


async def test_enter_sends_and_empties_the_prompt(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        order = app.source.orders[-1]
        assert isinstance(order, Ask) and order.messages == ({"role": "user", "content": "hello"},)
        assert app.prompt.text == ""


async def test_enter_on_nothing_sends_nothing(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("space", "enter")
        assert app.source.orders == []


async def test_ctrl_j_breaks_the_line(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("a", "ctrl+j", "b", "enter")
        await pilot.pause()
        assert app.source.orders[-1].messages[-1]["content"] == "a\nb"


async def test_a_paste_keeps_its_lines(app):
    from textual.events import Paste

    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.post_message(Paste("one\ntwo [b]not markup[/b]"))
        await pilot.pause()
        assert app.source.orders == []
        await pilot.press("enter")
        await pilot.pause()
        assert app.source.orders[-1].messages[-1]["content"] == "one\ntwo [b]not markup[/b]"


async def test_up_and_down_walk_the_history_and_keep_the_draft(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        for text in ("first", "second"):
            await sent(app, pilot, text)
            await answered(app, pilot)
        await pilot.press("x", "up")
        assert app.prompt.text == "second"
        await pilot.press("up")
        assert app.prompt.text == "first"
        await pilot.press("down", "down")
        assert app.prompt.text == "x"


async def test_history_is_there_in_the_next_session(app, tmp_path):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot, "kept")
    later = scene.chat(scene.idle(), tmp_path)
    async with later.run_test(size=WIDE) as pilot:
        await pilot.press("up")
        assert later.prompt.text == "kept"


async def test_escape_stops_this_turn(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await pilot.press("escape")
        assert app.source.orders[-1] == Stop(app.turn)


async def test_ctrl_c_stops_this_turn_and_else_says_what_leaves(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert [note.message for note in app._notifications] == ["Ctrl+Q leaves."] and app.is_running
        await sent(app, pilot)
        await pilot.press("ctrl+c")
        assert app.source.orders[-1] == Stop(app.turn)


async def test_a_stop_in_a_prompt_says_when_it_takes_effect(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await scene.show(app, pilot, scene.prefill(app.turn))
        await pilot.press("escape")
        await pilot.pause()
        assert app.source.orders[-1] == Stop(app.turn)
        assert "part of the prompt" in next(iter(app._notifications)).message


async def test_what_the_line_mode_takes_is_no_message(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot, "/hepl")
        assert "did you mean /help?" in next(iter(app._notifications)).message
        assert app.prompt.text == "/hepl", "it can be mended"
        await pilot.press("ctrl+u")
        await sent(app, pilot, "/help")
        assert isinstance(app.screen, HelpScreen) and app.prompt.text == ""
        await pilot.press("escape")
        assert app.source.orders == []
        await sent(app, pilot, "/etc/hosts")
        assert app.source.orders[-1].messages[-1]["content"] == "/etc/hosts"
        await answered(app, pilot)
        await sent(app, pilot, "/quit")
    assert app.return_code == 0


async def test_a_second_message_waits_in_the_prompt(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await sent(app, pilot, "more")
        assert app.prompt.text == "more" and len(app.source.orders) == 1


async def test_an_error_restores_the_prompt_and_the_conversation(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await scene.show(app, pilot, replace(scene.idle(), turn=app.turn, error="it broke; do this"))
        assert app.prompt.text == "hello" and app.talk.messages == []


async def test_stopped_before_the_first_token_gives_the_message_back(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot, "")
        assert app.prompt.text == "hello" and app.talk.messages == []


async def test_ctrl_r_answers_again(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot)
        first = app.turn
        await pilot.press("ctrl+r")
        await pilot.pause()
        order = app.source.orders[-1]
        assert isinstance(order, Ask) and order.turn != first and order.at == 0 and len(order.messages) == 1
        assert len(app.transcript.turns) == 2


async def test_ctrl_l_edits_the_last_message(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot)
        await pilot.press("ctrl+l")
        assert app.prompt.text == "hello" and app.talk.messages == [] and app.transcript.turns == []


async def test_ctrl_y_copies_the_answer_without_its_thinking(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot, "<think>\nhm\n</think>\n\nBlue.")
        await pilot.press("ctrl+y")
        assert app.clipboard == "Blue."


async def test_ctrl_t_unfolds_thinking(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot, "<think>\nhm\n</think>\n\nBlue.")
        fold = app.transcript.query_one(Collapsible)
        assert fold.collapsed and fold.title == "thought, 1 words"
        await pilot.press("ctrl+t")
        assert not fold.collapsed


async def test_ctrl_n_starts_over_and_keeps_the_old_session(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot)
        old = app.talk.ident
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert app.talk.messages == [] and app.talk.ident != old and app.transcript.turns == []
        assert [path.stem for path in app.sessions.paths()] == [old]


async def test_ctrl_s_goes_on_with_a_saved_session(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot)
        await pilot.press("ctrl+n", "ctrl+s")
        await pilot.pause()
        assert isinstance(app.screen, SessionsScreen)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert [m["content"] for m in app.talk.messages] == ["hello", "An answer."]
        await sent(app, pilot, "more")
        assert len(app.source.orders[-1].messages) == 3 and app.source.orders[-1].at == 2


async def test_resumed_it_shows_what_was_said(tmp_path):
    talk = Conversation(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    app = scene.chat(scene.idle(), tmp_path, conversation=talk)
    async with app.run_test(size=WIDE) as pilot:
        await pilot.pause()
        assert len(app.transcript.turns) == 2 and app.transcript.last_answer.text == "b"


async def test_ctrl_o_changes_settings(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        await pilot.pause()
        assert isinstance(app.screen, SettingsScreen)
        app.screen.query_one("#temp", Input).value = "0.7"
        app.screen.query_one("#seed", Input).value = "3"
        app.screen.query_one("#route_lambda", Input).value = "0.3"
        await pilot.press(*"25%", "enter")
        await pilot.pause()
        assert app.source.orders == [Configure({"temp": 0.7, "seed": 3}, {"route_lambda": 0.3}, "25%")]


async def test_settings_complain_in_place(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        app.screen.query_one("#temp", Input).value = "warm"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert isinstance(app.screen, SettingsScreen)
        await pilot.press("escape")
        await pilot.pause()
        assert app.source.orders == []


@pytest.mark.parametrize("key", ["f1", "question_mark"])
async def test_help(app, key):
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press(key)
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, HelpScreen)


async def test_a_question_mark_in_a_message_is_a_question_mark(app):
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press("a", "question_mark")
        assert app.prompt.text == "a?"


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize(
    ("typed", "order"),
    [
        ("expert cache 37%", Configure(expert_cache="37%")),
        ("cache 2GB", Configure(expert_cache="2gb")),
        ("lambda 0.25", Configure(routing={"route_lambda": 0.25})),
        ("temp 0.5", Configure(sampling={"temp": 0.5})),
        ("max tokens 64", Configure(sampling={"max_tokens": 64})),
        ("routing exact", Configure(routing={"routing": "exact"})),
        ("light experts late", Configure(routing={"light": "late"})),
        ("light beyond 0.4", Configure(routing={"light_beyond": 0.4})),
        ("empty the expert", Reset()),
    ],
)
async def test_the_palette_takes_values(app, typed, order):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+p", *typed)
        await app.workers.wait_for_complete()
        await pilot.press("enter")
        await pilot.pause()
        assert app.source.orders == [order]


async def test_the_palette_holds_every_action(app):
    from moe_mlx_tui.palette import entries

    async with app.run_test(size=WIDE) as pilot:
        await pilot.pause()
        offered = {action for _, _, action in app.ACTIONS}
        for binding in app.BINDINGS + MoeApp.BINDINGS:
            assert binding.action in offered, binding.action
        assert all(entry.help for entry in entries(app))


async def test_system_prompt(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.action_system_prompt()
        await pilot.pause()
        assert isinstance(app.screen, SystemPromptScreen)
        app.screen.query_one(TextArea).load_text("Be brief.")
        await pilot.press("ctrl+s")
        await pilot.pause()
        await sent(app, pilot)
        assert app.source.orders[-1].messages[0] == {"role": "system", "content": "Be brief."}


async def test_ctrl_g_swaps_the_map_in_on_a_narrow_screen(app):
    async with app.run_test(size=NARROW) as pilot:
        await scene.show(app, pilot, scene.decode("x"))
        assert not app.side.region and app.prompt.region
        await pilot.press("ctrl+g")
        await pilot.pause()
        assert app.side.region and not app.prompt.region and app.side.residency.map.has_focus
        await pilot.press("escape")
        await pilot.pause()
        assert app.prompt.region and app.prompt.has_focus


async def test_ctrl_g_takes_the_side_away_on_a_wide_screen(app):
    async with app.run_test(size=WIDE) as pilot:
        await pilot.press("ctrl+g")
        await pilot.pause()
        assert not app.side.region and app.strip.region
        await pilot.press("ctrl+g")
        await pilot.pause()
        assert app.side.region and not app.strip.region


async def test_the_cursor_names_the_expert(app):
    snapshot = scene.decode("x")
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, snapshot)
        panel = app.side.residency
        panel.map.focus()
        await pilot.press("right", "right", "l", "down", "j", "left", "k", "up", "h", "end", "pagedown")
        assert panel.map.cursor == (7, 31)
        words = str(panel.pointed())
        assert "layer 7 expert 31" in words and "slot" in words and "27.6 kB" in words
        await pilot.press("home", "pageup")
        assert panel.map.cursor == (0, 0)
        used = snapshot.cells.index(USED)
        panel.map.cursor = divmod(used, 32)
        assert "used by this token" in str(panel.pointed())


async def test_the_mouse_names_the_expert(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.decode("x"))
        await pilot.click(app.side.residency.map, offset=(2 + 2 * 5, 3))
        assert app.side.residency.map.cursor == (3, 5)


async def test_z_zooms_through_all_drawings(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.decode("x"))
        app.side.residency.map.focus()
        seen = []
        for _ in range(6):
            seen.append((app.side.residency.map.mode, app.side.residency.map.drawing.kind))
            await pilot.press("z")
            await pilot.pause()
        assert [mode for mode, _ in seen] == ["auto", "tiles", "cells", "half", "braille", "ascii"]
        assert [kind for _, kind in seen] == ["tiles", "tiles", "cells", "half", "braille", "ascii"]


async def test_a_map_larger_than_the_screen_follows_the_cursor(tmp_path):
    model = scene.facts(92, 512)
    app = scene.chat(scene.idle(model), tmp_path)
    async with app.run_test(size=NARROW) as pilot:
        await scene.show(app, pilot, scene.decode("x", model=model))
        await pilot.press("ctrl+g", "right", "end")
        for _ in range(12):
            await pilot.press("pagedown")
        panel = app.side.residency
        assert panel.map.cursor == (91, 511)
        layers, experts = panel.map.in_view
        assert 91 in layers and 511 in experts and len(experts) < 512
        assert f"layers {layers[0]}-91, experts {experts[0]}-511" in panel.border_subtitle


async def test_resizing_at_any_time(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        for frame, size in enumerate([(60, 20), (132, 40), (20, 6), (100, 30), (250, 70), (80, 24)], start=10):
            await pilot.resize_terminal(*size)
            await scene.show(app, pilot, scene.decode(app.turn, frame, scene.ANSWER[: frame * 9]))
        await answered(app, pilot, scene.ANSWER)
        assert app.transcript.last_answer.text == scene.ANSWER


async def test_ctrl_q_and_ctrl_d_leave(tmp_path):
    for key in ("ctrl+q", "ctrl+d"):
        app = scene.chat(scene.idle(), tmp_path)
        async with app.run_test(size=WIDE) as pilot:
            await pilot.press(key)
            await pilot.pause()
        assert app.return_value == 0


async def test_exports(app, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await sent(app, pilot)
        await answered(app, pilot)
        app.action_export("md")
        app.action_export("json")
    assert "An answer." in (tmp_path / "moe-mlx-hello.md").read_text()
    assert json.loads((tmp_path / "moe-mlx-hello.json").read_text())["messages"][1]["content"] == "An answer."


@pytest.fixture
def replay(tmp_path):
    """Two turns, sixteen seconds; the clock stands still until it is moved."""
    recorder = Recorder(tmp_path / "r.jsonl")
    recorder.add(scene.idle())
    for turn in range(2):
        for frame in range(1, 41):
            snapshot = replace(scene.decode(f"t{turn}", frame, scene.ANSWER[: frame * 5]), at=turn * 2)
            recorder.add(replace(snapshot, time=snapshot.time + turn * 8))
        recorder.add(scene.over(replace(snapshot, time=snapshot.time + turn * 8)))
    recorder.close()
    clock = [0.0]
    player = Player(Recording(tmp_path / "r.jsonl"), clock=lambda: clock[0])
    return ReplayApp(player, poll=False), clock


async def test_the_keys_of_the_replay(replay):
    app, clock = replay
    async with app.run_test(size=WIDE) as pilot:

        async def tick(seconds=0.0):
            clock[0] += seconds
            app.call_later(app.tick)
            await pilot.pause()
            await pilot.pause()

        await tick(4)
        assert app.shown.turn == "t0" and len(app.transcript.turns) == 2
        await pilot.press("space")
        await tick(3)
        assert app.player.position == 4
        await pilot.press("right")
        await tick()
        assert app.player.position == 9
        await pilot.press("end")
        await tick()
        assert len(app.transcript.turns) == 4 and app.shown.receipt is not None
        await pilot.press("left", "left")
        await tick()
        assert app.shown.turn == "t0" and len(app.transcript.turns) == 2
        await pilot.press("home", "plus", "minus", "minus", "space")
        assert app.player.speed == 0.5
        await tick(2)
        assert app.player.position == 1.0
        await pilot.press("plus", "plus", "plus", "plus")
        await tick(2)
        assert app.player.speed == 8 and app.shown.turn == "t1" and len(app.transcript.turns) == 4
        before = app.transcript.turns[1]
        assert before.text == scene.ANSWER[: 40 * 5]


async def test_a_real_engine_answers_in_the_app(arguments, tmp_path):
    from moe_mlx_tui.app import ChatApp
    from moe_mlx_tui.engine.engine import Engine
    from tests.tui.waiting import until

    engine = Engine(arguments())
    app = ChatApp(engine, home=tmp_path, poll=False)
    async with app.run_test(size=WIDE) as pilot:
        import asyncio

        await asyncio.to_thread(until, engine, lambda s: s.phase == "idle")
        app.call_later(app.tick)
        await pilot.pause()
        await sent(app, pilot)
        await asyncio.to_thread(until, engine, lambda s: s.receipt is not None)
        app.call_later(app.tick)
        await pilot.pause()
        await app.workers.wait_for_complete()
        assert app.talk.messages[-1] == {"role": "assistant", "content": engine.latest.text}
        assert app.view is None
    engine.close()


@pytest.mark.parametrize("size", [(110, 40), (120, 40), (131, 40), (60, 20)])
async def test_the_legend_has_both_its_lines(app, size):
    async with app.run_test(size=size) as pilot:
        model = scene.facts(48, 128, 8)
        await scene.show(app, pilot, scene.idle(model))
        if size[0] < 110:
            await pilot.press("ctrl+g")
        await scene.show(app, pilot, scene.decode("x", model=model))
        legend = app.query_one("#legend").render_lines(app.query_one("#legend").region.reset_offset)
        shown = [strip.text for strip in legend]
        assert "absent" in shown[0] and shown[1].startswith("tokens ago"), shown
