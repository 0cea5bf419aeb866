"""Settings in people's words, the system prompt in view, and how much of the context is used."""

from dataclasses import replace

import pytest
from textual.widgets import Input, Label, Select, TextArea

from moe_mlx.routing.names import LIGHTS
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, Configure, Load
from moe_mlx_tui.engine.snapshot import IDLE
from moe_mlx_tui.screens.settings import SettingsScreen
from moe_mlx_tui.screens.system_prompt import SystemPromptScreen
from tests.tui import scene
from tests.tui.scene import WIDE, exchange
from tests.tui.waiting import until


@pytest.fixture
def app(tmp_path):
    return scene.chat(scene.idle(), tmp_path)


async def test_settings_speak_people_s_words(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        await pilot.pause()
        words = [str(label.render()) for label in app.screen.query(Label)]
        assert not [word for word in words if "_" in word]
        for word in ("temperature", "read ahead", "decode", "gives way first", "system prompt"):
            assert word in words
        app.screen.query_one("#temp", Input).value = "hot"
        await pilot.press("enter")
        await pilot.pause()
        assert "temperature needs a number" in str(app.screen.query_one("#complaint").render())


async def test_light_experts_are_chosen_while_the_model_stays_loaded(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        await pilot.pause()
        light = app.screen.query_one("#light", Select)
        assert light.value == "exact" and tuple(value for _, value in light._options) == LIGHTS
        light.value = "late"
        app.screen.query_one("#light_beyond", Input).value = "0.4"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert app.source.orders == [Configure(routing={"light_beyond": 0.4, "light": "late"})]


async def test_what_needs_another_loading_takes_the_rest_along(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        await pilot.pause()
        app.screen.query_one("#temp", Input).value = "0.5"
        app.screen.query_one("#evict", Select).value = "lfu"
        app.screen.query_one("#prefetch", Select).value = "on"
        app.screen.query_one("#decode", Select).value = "readback"
        app.screen.query_one("#prompt_store", Select).value = "auto"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert app.source.orders == [
            Load(options={"temp": 0.5, "evict": "lfu", "prefetch": "on", "decode": "readback", "prompt_store": "auto"})
        ]


async def test_a_profile_and_pins_are_typed_checked_and_load_the_model_anew(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        await pilot.pause()
        profile, pin = (app.screen.query_one(name, Input) for name in ("#profile", "#pin"))
        assert (profile.value, pin.value) == ("sums", "")
        for field, wrong, says in ((profile, "../up", "give a name"), (pin, "three", "give how many of each layer")):
            before, field.value = field.value, wrong
            await pilot.press("ctrl+s")
            await pilot.pause()
            assert says in str(app.screen.query_one("#complaint").render()) and app.focused is field
            field.value = before
        profile.value, pin.value = "", "2"
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert app.source.orders == [Load(options={"profile": None, "pin": "2"})]


async def test_the_system_prompt_is_set_and_stays_in_view(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        assert not app.system_line.display
        await pilot.press("ctrl+o")
        await pilot.pause()
        app.screen.query_one("#system_prompt", TextArea).load_text("Be brief.\nAnd kind.")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert not isinstance(app.screen, SettingsScreen) and app.source.orders == []
        assert app.system_line.region and "Be brief. And kind." in str(app.system_line.render())
        await exchange(app, pilot, "hello", "Hi.")
        assert app.source.orders[-1].messages[0] == {"role": "system", "content": "Be brief.\nAnd kind."}
        await pilot.press("ctrl+n")
        assert app.system_line.display, "it stays for a new session"
        await pilot.click(app.system_line)
        await pilot.pause()
        assert isinstance(app.screen, SystemPromptScreen)
        app.screen.query_one(TextArea).load_text("")
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert not app.system_line.display and app.talk.system == ""


async def test_a_resumed_session_brings_its_system_prompt(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"/system Be brief.", "enter")
        await pilot.pause()
        await exchange(app, pilot, "hello", "Hi.")
        await pilot.press(*"/system Be long.", "enter", "ctrl+n", "ctrl+s")
        await pilot.pause()
        await app.workers.wait_for_complete()
        await pilot.press("enter")
        await pilot.pause()
        assert "Be long." in str(app.system_line.render()), "a change of it is kept with the session"


@pytest.mark.parametrize("width", [132, 80])
async def test_the_status_line_says_how_much_of_the_context_is_used(app, width):
    facts = replace(scene.facts(), context=4096)
    async with app.run_test(size=(width, 30)) as pilot:
        await scene.show(app, pilot, scene.idle(facts))
        assert "ctx" not in str(app.status.render())
        app.prompt.put("hello")
        await pilot.press("enter")
        await pilot.pause()
        await scene.show(app, pilot, replace(scene.decode(app.turn, 20, "Hi", facts), context=1234))
        assert "ctx 1.2k/4.1k" in str(app.status.render())
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, "Hi", facts)))
        assert "ctx 2.1k/4.1k" in str(app.status.render()), "2048 of the prompt, 20 of the answer"
        near = replace(scene.facts(), context=2100)
        await scene.show(app, pilot, replace(scene.idle(near), time=9.0))
        spans = [
            span.style for span in app.status.render().spans if "ctx" in str(app.status.render()[span.start : span.end])
        ]
        assert "$warning" in spans
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert "ctx" not in str(app.status.render())


@pytest.fixture
def engine(arguments):
    """A running engine that needs no compiler."""
    engine = Engine(arguments("--decode", "readback"))
    engine.start()
    yield engine
    engine.close()


def test_the_engine_counts_the_context_and_keeps_what_was_set_when_it_loads_anew(engine):
    until(engine, lambda s: s.phase == IDLE)
    until(engine, lambda s: dict(s.settings.sampling)["temp"] == 0.5, lambda: engine.submit(Configure({"temp": 0.5})))
    until(engine, lambda s: s.cap_share == 0.25, lambda: engine.submit(Configure(expert_cache="25%")))
    ask = Ask("t1", 0, ({"role": "user", "content": "hello"},))
    done = until(engine, lambda s: s.turn == "t1" and s.receipt is not None, lambda: engine.submit(ask))
    receipt = done.receipt
    assert receipt.prompt_tokens < done.context <= receipt.prompt_tokens + receipt.tokens
    load = Load(options={"evict": "lfu", "pin": "1:3"})
    loaded = until(engine, lambda s: s.phase == IDLE and s.turn == "", lambda: engine.submit(load))
    assert dict(loaded.settings.loading) == {
        "evict": "lfu",
        "decode": "readback",
        "prefetch": "auto",
        "prompt_store": "off",
        "profile": "",
        "pin": "1:3",
    }
    assert dict(loaded.settings.sampling)["temp"] == 0.5 and loaded.cap_share == 0.25 and loaded.context == 0
