"""Pictures of the app at several sizes. `pytest tests/tui --snapshot-update` accepts new ones: look at them first."""

from dataclasses import replace

import pytest
from textual.widgets import Input

from tests.tui import scene

SIZES = [(132, 40), (100, 30), (80, 24), (60, 20)]
IDS = [f"{w}x{h}" for w, h in SIZES]
#: Where the map of a large model is looked at, and the demo's as large as it gets.
MAP_SIZES = [(60, 20), (80, 24), (132, 40), (200, 60)]


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """No animation, no colour settings of the machine, no clock in the cursor."""
    monkeypatch.setenv("TEXTUAL_ANIMATIONS", "none")
    for name in ("NO_COLOR", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_empty(snap_compare, tmp_path, size):
    app = scene.chat(scene.loading(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_prefill(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await app.ask(scene.QUESTION)
        await scene.show(app, pilot, scene.prefill(app.turn))

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_decode(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await scene.converse(app, pilot)

    assert snap_compare(app, terminal_size=size, run_before=before)


def test_answered_with_receipt(snap_compare, tmp_path):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await scene.show(app, pilot, scene.over(await scene.converse(app, pilot)))

    assert snap_compare(app, terminal_size=(132, 40), run_before=before)


@pytest.mark.parametrize("size", SIZES, ids=IDS)
def test_error(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await app.ask(scene.QUESTION)
        text = "layer 3, expert 17: the digest does not match (experts/layer-003/expert-017.safetensors). "
        text += "Run `moe-mlx verify` on the store; convert again if it reports damage."
        await scene.show(app, pilot, replace(scene.idle(), turn=app.turn, error=text))

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [(132, 40), (60, 20)], ids=["132x40", "60x20"])
def test_palette(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+p")
        app.screen.query_one(Input).cursor_blink = False
        await pilot.press(*"expert cache 37%")
        await app.workers.wait_for_complete()
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("size", [(132, 40), (80, 24), (60, 20)], ids=["132x40", "80x24", "60x20"])
def test_settings(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await pilot.press("ctrl+o")
        for field in app.screen.query(Input):
            field.cursor_blink = False
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


def test_help(snap_compare, tmp_path):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await pilot.press("question_mark")

    assert snap_compare(app, terminal_size=(80, 24), run_before=before)


@pytest.mark.parametrize("size", [(80, 24), (60, 20)], ids=["80x24", "60x20"])
def test_narrow_map(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await scene.converse(app, pilot)
        await pilot.press("ctrl+g", "right", "right", "right", "down")

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.rows_by_day(4)
@pytest.mark.parametrize("key", ["", "f4"], ids=["chat", "theatre"])
@pytest.mark.parametrize("shape", [(8, 32), (48, 128)], ids=["8x32", "48x128"])
@pytest.mark.parametrize("size", MAP_SIZES, ids=[f"{w}x{h}" for w, h in MAP_SIZES])
def test_map(snap_compare, tmp_path, size, shape, key):
    model = scene.facts(*shape)
    app = scene.chat(scene.idle(model), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle(model))
        await scene.converse(app, pilot)
        await pilot.press(*filter(None, [key]))
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("shape", [(4, 8), (92, 512)], ids=["4x8", "92x512"])
def test_shapes(snap_compare, tmp_path, shape):
    model = scene.facts(*shape)
    app = scene.chat(scene.idle(model), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle(model))
        await scene.converse(app, pilot)

    assert snap_compare(app, terminal_size=(132, 40), run_before=before)


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("size", [(132, 40), (80, 24)], ids=["132x40", "80x24"])
def test_ascii(snap_compare, tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path, plain=True)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await scene.converse(app, pilot)

    assert snap_compare(app, terminal_size=size, run_before=before)


def test_no_colour(snap_compare, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        await scene.show(app, pilot, scene.idle())
        await scene.converse(app, pilot)

    assert snap_compare(app, terminal_size=(132, 40), run_before=before)


def test_light_theme(snap_compare, tmp_path):
    app = scene.chat(scene.idle(), tmp_path)

    async def before(pilot):
        app.theme = "paper"
        await scene.show(app, pilot, scene.idle())
        await scene.converse(app, pilot)

    assert snap_compare(app, terminal_size=(132, 40), run_before=before)
