"""Choosing a model: the list at the start, another one with the conversation kept, and one brought from a hub."""

import asyncio
from dataclasses import replace

import pytest
from textual.widgets import Button, Input, OptionList, ProgressBar

from moe_mlx.catalogue.estimate import Estimate
from moe_mlx.catalogue.offers import KNOWN, Offer
from moe_mlx.system.sizes import show_bytes
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, Load
from moe_mlx_tui.engine.snapshot import EMPTY, FAILED, IDLE, Snapshot
from moe_mlx_tui.screens.bring import READY, STOPPED, BringScreen
from moe_mlx_tui.screens.models import ModelsScreen, figures
from tests.fake_hub import FakeHub
from tests.tui import scene
from tests.tui.waiting import until

WIDE = (132, 40)
GUESS = Estimate(True, 0.62, 9_700_000_000, 10.5)
QWEN, GLM, KIMI = ("qwen3_moe", 48, 128, 8), ("glm4_moe", 45, 128, 8), ("deepseek_v3", 60, 384, 8)
TOO_LARGE = Estimate(False, 1.0, 1, None, "the smallest expert cache is 11.9 GB")
OFFERS = [
    Offer("demo", "demo", "embedded", "checkpoint", 8_100_000, "qwen3_moe", 8, 32, 4, Estimate(True, 1.0, 1, None)),
    Offer("glm-air", "/models/glm-air", "folder", "store", 60_100_000_000, *GLM, GUESS, path="/models/glm-air"),
    Offer("half", "mlx/half", "hub cache", "unreadable", problem="a shard is missing", path="/hub/half"),
    Offer("broken", "/models/broken", "folder", "unreadable", problem="a header cannot be read"),
    Offer("Qwen3-30B-A3B", "mlx-community/Qwen3-30B-A3B-4bit", KNOWN, "hub", 17_200_000_000, *QWEN, GUESS),
    Offer("Kimi-K2", "mlx-community/Kimi-K2-Instruct-4bit", KNOWN, "hub", 577_600_000_000, *KIMI, TOO_LARGE),
]


def home(tmp_path, latest=None):
    """The app as `moe-mlx` alone opens it."""
    app = scene.chat(latest or Snapshot(phase=EMPTY), tmp_path)
    app.at_home, app.find_models = True, lambda: OFFERS
    return app


async def listed(app, pilot):
    """Waits until the list is there."""
    await app.workers.wait_for_complete()
    await pilot.pause()
    assert isinstance(app.screen, ModelsScreen)
    return app.screen.query_one("#offers", OptionList)


@pytest.fixture(autouse=True)
def still(monkeypatch):
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    for name in ("NO_COLOR", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)


async def test_alone_it_lists_the_models_and_enter_runs_one(tmp_path):
    app = home(tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "enter")
        await pilot.pause()
        assert app.source.orders == [Load("/models/glm-air")] and app.prompt.has_focus


async def test_a_click_runs_one_too(tmp_path):
    app = home(tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await listed(app, pilot)
        await pilot.click("#offers", offset=(6, 1))
        await pilot.pause()
        assert app.source.orders == [Load("demo")]


async def test_typing_narrows_and_a_repository_may_be_named(tmp_path):
    app = home(tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        box = await listed(app, pilot)
        await pilot.press(*"kimi")
        await pilot.pause()
        assert box.option_count == 2 and "11.9 GB" in str(app.screen.query_one("#detail").render())
        app.screen.query_one(Input).value = "owner/name"
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, BringScreen) and app.screen.model == "owner/name"


async def test_what_is_wrong_is_said_and_half_a_download_goes_on(tmp_path):
    app = home(tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "down", "down", "enter")
        await pilot.pause()
        assert app.source.orders == [] and "header" in next(iter(app._notifications)).message
        await pilot.press("up", "enter")
        await pilot.pause()
        assert isinstance(app.screen, BringScreen) and app.screen.model == "mlx/half"


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("how", ["f2", "/model", "/model glm", "palette"])
async def test_another_model_at_any_time_with_the_conversation_kept(tmp_path, how):
    app = scene.chat(scene.idle(), tmp_path)
    app.find_models = lambda: OFFERS
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"hello", "enter")
        await pilot.pause()
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, "An answer.")))
        if how == "palette":
            await pilot.press("ctrl+p", *"models")
            await app.workers.wait_for_complete()
            await pilot.press("enter")
        elif how == "f2":
            await pilot.press("f2")
        else:
            await pilot.press(*how, "enter")
        await pilot.pause()
        await listed(app, pilot)
        await pilot.press(*([] if how == "/model glm" else ["down"]), "enter")
        await pilot.pause()
        assert app.source.orders[-1] == Load("/models/glm-air") and app.prompt.text == ""
        await pilot.press(*"more", "enter")
        await pilot.pause()
        order = app.source.orders[-1]
        assert isinstance(order, Ask) and [m["content"] for m in order.messages] == ["hello", "An answer.", "more"]


async def test_without_a_model_nothing_is_sent(tmp_path):
    app = home(tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await listed(app, pilot)
        await pilot.press("escape")
        await scene.show(app, pilot, Snapshot(phase=EMPTY))
        await pilot.press(*"hello", "enter")
        await pilot.pause()
        assert app.source.orders == [] and app.prompt.text == "hello"


def test_the_engine_runs_one_model_after_another(arguments, tiny, tmp_path):
    from tests.checkpoints import AFFINE4, tiny_checkpoint

    other = tiny_checkpoint("olmoe", tmp_path / "other", quantization=AFFINE4)
    words = arguments("--decode", "readback")
    words.model = None
    engine = Engine(words)
    engine.start()
    try:
        until(engine, lambda s: s.phase == EMPTY)
        first = until(engine, lambda s: s.phase == IDLE, lambda: engine.submit(Load(str(tiny))))
        assert first.model.family == "qwen3_moe"
        ask = Ask("one", 0, ({"role": "user", "content": "hi"},))
        until(engine, lambda s: s.receipt is not None, lambda: engine.submit(ask))
        refused = until(engine, lambda s: s.remark_count > first.remark_count, lambda: engine.submit(Load("/no/such")))
        assert "not changed: no model at /no/such" in refused.remarks[-1] and refused.model == first.model
        second = until(
            engine, lambda s: s.phase == IDLE and s.model.family == "olmoe", lambda: engine.submit(Load(str(other)))
        )
        assert len(second.cells) == second.model.offsets[-1] and second.running.steps == 0
        again = until(
            engine, lambda s: s.turn == "two" and s.receipt is not None, lambda: engine.submit(replace(ask, turn="two"))
        )
        assert again.receipt.tokens > 0 and engine.failure is None
    finally:
        engine.close()


def test_a_model_that_does_not_fit_leaves_the_engine_ready_for_another(arguments, tiny):
    words = arguments("--decode", "readback")
    words.model, words.expert_cache = str(tiny), "1kB"
    engine = Engine(words)
    engine.start()
    try:
        failed = until(engine, lambda s: s.phase == FAILED)
        assert "smallest" in failed.error and engine.failure is not None
        until(engine, lambda s: s.phase == IDLE, lambda: engine.submit(Load("", None, {"expert_cache": "50%"})))
        assert engine.failure is None
    finally:
        engine.close()


async def test_a_model_is_brought_from_a_hub_stopped_gone_on_with_and_converted(tmp_path, monkeypatch):
    from moe_mlx.rig.random_store import Shape, make_checkpoint

    make_checkpoint(Shape(2, 8, 2, 128, 64, 2, 1, 32, 128), tmp_path / "published")
    hub = FakeHub(tmp_path / "published")
    hub.slow = sorted(path.name for path in hub.folder.glob("*.safetensors"))[-1]
    for name, value in hub.environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MOE_MLX_FOLDERS", str(tmp_path / "models"))
    app = home(tmp_path)
    try:
        async with app.run_test(size=WIDE) as pilot:
            await listed(app, pilot)
            app.screen.query_one(Input).value = "owner/name"
            await pilot.pause()
            await pilot.press("enter")
            await pilot.pause()
            bring = app.screen
            assert isinstance(bring, BringScreen)
            await pilot.click("#download")
            async with asyncio.timeout(60):
                while not (bring.query_one(ProgressBar).progress or 0) > 0:
                    await pilot.pause(0.05)
            assert "/s" in str(bring.query_one("#figures").render())
            await pilot.press("escape")
            await app.workers.wait_for_complete()
            await pilot.pause()
            assert bring.stage == STOPPED and "goes on" in str(bring.query_one("#about").render())
            hub.slow = ""
            await pilot.click("#again")
            await app.workers.wait_for_complete()
            await pilot.pause()
            assert bring.query_one("#run", Button).display
            await pilot.click("#convert")
            await app.workers.wait_for_complete()
            await pilot.pause()
            assert bring.stage == READY, str(bring.query_one("#about").render())
            await pilot.press("enter")
            await pilot.pause()
    finally:
        hub.close()
    store = tmp_path / "models" / "name"
    assert app.source.orders == [Load(str(store))] and (store / "store.json").is_file()


async def test_what_one_chooses_a_model_by_is_seen_in_60_columns(tmp_path):
    app = home(tmp_path)
    async with app.run_test(size=(60, 20)) as pilot:
        await listed(app, pilot)
        offers = [offer for offer in app.screen._shown.values() if offer.guess is not None and offer.guess.fits]
        width = app.screen.query_one("#offers").content_size.width - 3
        assert any(offer.guess.tps is not None for offer in offers)
        for offer in offers:
            seen = figures(offer)[:width]
            assert show_bytes(offer.nbytes) in seen and f"fits: {offer.guess.words}" in seen and offer.family in seen
            assert offer.guess.tps is None or f"~{offer.guess.tps:.1f} t/s" in seen


@pytest.mark.parametrize("size", [(132, 40), (80, 24), (60, 20)], ids=["132x40", "80x24", "60x20"])
def test_home(snap_compare, tmp_path, size):
    app = home(tmp_path)

    async def before(pilot):
        await listed(app, pilot)
        app.screen.query_one(Input).cursor_blink = False
        await pilot.press("down")
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(80, 24)], ids=["80x24"])
def test_compiling_moves(snap_compare, tmp_path, size):
    compiling = Snapshot(activity="compiling the C++ of decode, once", since=2.0, time=49.5)
    app = scene.chat(compiling, tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, compiling)

    assert snap_compare(app, terminal_size=size, run_before=before)
