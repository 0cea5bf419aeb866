"""The map: what fits is drawn as large as it fits, at every size, in every theme, on several machines."""

import json
from dataclasses import replace

import numpy as np
import pytest

from moe_mlx_tui.drawing.arrangement import BAND, BELOW, BESIDE, arranged, side_columns
from moe_mlx_tui.drawing.cells import (
    ABSENT,
    ARRIVED,
    COARSE,
    ELSEWHERE,
    EVICTED,
    HELD,
    NEWEST,
    OLDEST,
    STATE_BITS,
    STATES,
    USED,
    describe,
)
from moe_mlx_tui.drawing.drawings import ASCII, BRAILLE, CELLS, HALF, TILES, Bands, Drawing, fitting
from moe_mlx_tui.drawing.folding import fold
from moe_mlx_tui.drawing.painting import grid_of, paint, resident
from moe_mlx_tui.drawing.ramp import LOOKS, state_style
from moe_mlx_tui.recording.codec import decode, encode
from tests.tui import scene

ONE = (0,)
LARGE = scene.facts(48, 128, 8)


@pytest.mark.parametrize(
    ("shape", "room", "drawing"),
    [
        ((8, 32), (66, 20), Drawing(TILES, 2, 1)),
        ((8, 32), (128, 48), Drawing(TILES, 4, 2)),
        ((8, 32), (198, 46), Drawing(TILES, 6, 3)),
        ((8, 32), (50, 20), Drawing(CELLS)),
        ((8, 32), (50, 7), Drawing(HALF)),
        ((8, 32), (31, 20), Drawing(BRAILLE)),
        ((48, 128), (66, 20), Drawing(BRAILLE)),
        ((48, 128), (128, 24), Drawing(HALF)),
        ((48, 128), (128, 47), Drawing(HALF)),
        ((48, 128), (128, 48), Drawing(CELLS)),
        ((92, 512), (300, 90), Drawing(BRAILLE)),
    ],
)
def test_an_expert_has_a_place_of_its_own_wherever_that_fits(shape, room, drawing):
    layers, experts = shape
    assert fitting(ONE * layers, experts, *room) == drawing
    assert fitting(ONE * layers, experts, *room, plain=True) == Drawing(ASCII)


def test_the_map_takes_what_a_conversation_can_spare():
    assert side_columns(200, 60, LARGE) == 136, "64 columns to talk in, one for each of 128 experts"
    assert arranged(135, 59, LARGE).drawing == Drawing(CELLS)
    assert side_columns(132, 40, scene.facts()) == 72
    for columns in range(110, 260, 7):
        for facts in (None, scene.facts(), LARGE, scene.facts(92, 512)):
            assert columns - side_columns(columns, 50, facts) >= 52


@pytest.mark.parametrize("theatre", [False, True])
@pytest.mark.parametrize("shape", [(4, 8), (8, 32), (48, 128), (92, 512)])
def test_no_arrangement_is_higher_than_its_room(shape, theatre):
    facts = scene.facts(*shape)
    for columns in (56, 79, 103, 131, 199, 260):
        for rows in (8, 15, 19, 30, 39, 59, 80):
            room = arranged(columns, rows, facts, theatre=theatre)
            assert room.height <= max(rows, 8) and room.columns <= columns, (columns, rows, room)
            assert room.figures in (BELOW, BAND, BESIDE)


def test_each_machine_s_layers_stand_in_a_band_of_their_own():
    ranks = (0,) * 5 + (1,) * 6
    bands = Bands(Drawing(BRAILLE), ranks)
    assert bands.spans == ((0, 5), (5, 11)) and bands.tops == (0, 4, 5, 9)
    assert [bands.row_of(layer) for layer in (0, 4, 5, 8, 9, 10)] == [0, 1, 2, 2, 3, 3]
    assert Bands(Drawing(TILES, 4, 2), (0, 1)).tops == (0, 0, 1, 1)
    assert fitting(ranks, 64, 64, 6) == Drawing(HALF) and fitting(ranks, 64, 64, 5) == Drawing(BRAILLE)


async def test_two_machines_on_the_screen(tmp_path):
    model = replace(scene.facts(), ranks=(0,) * 3 + (1,) * 5)
    app = scene.chat(scene.idle(model), tmp_path)
    async with app.run_test(size=(132, 40)) as pilot:
        await scene.show(app, pilot, scene.decode("x", model=model))
        map_, panel = app.side.residency.map, app.side.residency
        rows = [map_.render_line(y).text for y in range(8)]
        assert [row[:4] for row in rows] == [f"{0 if n < 3 else 1}▎{n} " for n in range(8)]
        assert "on 2 machines" in panel.border_title
        await pilot.click(map_, offset=(4 + 2 * 5, 3))
        assert map_.cursor == (3, 5) and "expert 5 on machine 1" in str(panel.pointed())


def test_machines_and_precisions_go_through_recordings_and_sockets():
    model = replace(scene.facts(), ranks=(0,) * 3 + (1,) * 5)
    before = scene.decode("x", model=model)
    now = replace(before, cells=bytes(cell if cell in ELSEWHERE else cell | COARSE for cell in before.cells))
    came = decode(json.loads(json.dumps(encode(before, None))), None)
    assert came == before and came.model.layer_ranks == model.ranks
    came = decode(json.loads(json.dumps(encode(now, before))), came)
    assert came == now and any(cell & COARSE for cell in came.cells)


def test_two_precisions_are_told_apart_without_colour():
    for state in range(OLDEST, STATES):
        if state != EVICTED:
            assert LOOKS[state].signs[0] != LOOKS[state].signs[1]
            assert LOOKS[state].plain[0] != LOOKS[state].plain[1]
            assert describe(state | COARSE) == f"{describe(state)}, coarse"
            assert state_style(state | COARSE, marked=True).italic and not state_style(state, marked=True).italic
    grid = np.array([[NEWEST | COARSE, ABSENT], [OLDEST, USED | COARSE]], dtype=np.uint8)
    assert resident(grid).tolist() == [[True, False], [True, True]]
    shared = paint(grid, Drawing(BRAILLE))
    assert shared.cells.tolist() == [[USED | COARSE]], "the state decides, not the flag"
    assert chr(shared.characters[0, 0]) == "⠓"
    assert "".join(map(chr, paint(grid, Drawing(CELLS)).characters[0])) == "● "


def test_no_two_states_share_sign_and_attributes():
    signs = [(look.signs[0], look.plain[0]) for state, look in enumerate(LOOKS) if not OLDEST <= state <= NEWEST]
    assert len({sign for sign, _ in signs} | {"■"}) == len(signs), "held whole looks like the newest of the ages"
    assert len({plain for _, plain in signs}) == len(signs)


def test_an_eviction_below_an_absent_expert_has_its_colour():
    painting = paint(np.array([[ABSENT, EVICTED], [EVICTED, ABSENT]], dtype=np.uint8), Drawing(HALF))
    assert (painting.cells // 32).tolist() == [[EVICTED, EVICTED]]


def places(painting, kind):
    """How many experts a folded painting shows as resident."""
    if kind == BRAILLE:
        return sum((int(c) - 0x2800).bit_count() for c in painting.characters.flat)
    both = (painting.characters == ord("▀")) & (painting.cells % 32 != ABSENT)
    return int(np.isin(painting.characters, (ord("▀"), ord("▄"))).sum() + both.sum())


@pytest.mark.parametrize(("shape", "columns"), [((8, 32), 58), ((8, 32), 39), ((3, 5), 20), ((4, 128), 40)])
def test_the_strip_shows_every_expert_where_it_can(shape, columns):
    model = scene.facts(*shape)
    grid = grid_of(scene.cells_of(model), model)
    painting, kind = fold(grid, columns, 3)
    assert painting.cells.shape[0] == 3 and painting.cells.shape[1] <= columns
    if kind == CELLS:
        signs = np.isin(painting.characters, [ord(look.signs[0]) for look in LOOKS[1:EVICTED] + LOOKS[USED:]])
        assert int(signs.sum()) == int(resident(grid).sum())
    else:
        assert places(painting, kind) == int(resident(grid).sum())


@pytest.mark.parametrize("shape", [(48, 128), (92, 512), (300, 8)])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_strip_shades_groups_where_it_cannot(shape, rows):
    grid = np.zeros(shape, dtype=np.uint8)
    half = shape[1] // 2
    grid[:, :half] = NEWEST
    grid[0, 0] = ARRIVED
    painting, kind = fold(grid, 58, rows)
    text = ["".join(map(chr, row)) for row in painting.characters]
    assert kind == CELLS and len(text) == rows and max(map(len, text)) <= 58
    if rows == 3:
        assert set(text[0]) == {"█"} and set(text[2]) == {"·"}, "the first experts are there, the last are not"
    assert painting.cells[0, 0] == ARRIVED, "what was just read is not lost among the others"
    assert max(map(max, painting.cells.tolist())) == ARRIVED and fold(grid, 58, rows, plain=True)[1] == ASCII
    assert set(fold(grid, 58, rows, plain=True)[0].characters.flat) <= set(range(128))


async def test_below_110_columns_a_strip_of_three_rows_stands_in_for_the_map(tmp_path):
    app = scene.chat(scene.idle(LARGE), tmp_path)
    async with app.run_test(size=(80, 24)) as pilot:
        await scene.show(app, pilot, scene.decode("x", model=LARGE))
        assert app.strip.region.height == 3 and not app.side.region
        text = [app.strip.render_line(y).text for y in range(3)]
        assert "held 3054/6144" in text[0] and "worst" in text[1] and "hit 88%" in text[2]
        before = [app.strip.render_line(y) for y in range(3)]
        await scene.show(app, pilot, scene.decode("x", 60, model=LARGE))
        assert [app.strip.render_line(y) for y in range(3)] != before
        await pilot.click(app.strip)
        await pilot.pause()
        assert app.side.region and app.side.residency.map.has_focus, "a click opens the whole"
        await pilot.resize_terminal(80, 12)
        await pilot.press("escape")
        await pilot.pause()
        assert app.strip.region.height == 1


def looks_of(strips):
    """Colour by sign of what is drawn."""
    return {
        (char, tuple(style.color.get_truecolor()))
        for strip in strips
        for text, style, _ in strip
        if style is not None and style.color is not None
        for char in text
        if char.strip() and not char.isalnum()
    }


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize(
    "chosen", [("textual-dark", "textual-light"), pytest.param((), id="all", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", [TILES, CELLS, BRAILLE, HALF])
async def test_the_legend_is_what_the_map_draws_in_every_theme(tmp_path, kind, chosen):
    app = scene.chat(scene.idle(), tmp_path)
    cells = bytes([USED, ARRIVED, EVICTED, *range(OLDEST, NEWEST + 1)] * 32)[:256]
    cells = bytes(0 if place % 32 > 20 else cell for place, cell in enumerate(cells))
    async with app.run_test(size=(132, 40)) as pilot:
        app.side.residency.map.mode = kind
        await scene.show(app, pilot, replace(scene.decode("x"), cells=cells))
        for theme in chosen or sorted(app.available_themes):
            app.theme = theme
            await pilot.pause()
            dark = app.current_theme.dark
            for state in (USED, ARRIVED, *range(OLDEST, NEWEST + 1)):
                sample = app.side.residency.legend.sample(state)
                colour = sample.spans[0].style.foreground.rgb
                assert colour == tuple(state_style(state, dark).color.get_truecolor()), (theme, state)
            legend = app.side.residency.legend
            shown = looks_of(legend.render_lines(legend.region.reset_offset))
            drawn = {colour for _, colour in shown}
            wanted = {tuple(state_style(state, dark).color.get_truecolor()) for state in (USED, ARRIVED, NEWEST)}
            assert wanted <= drawn, f"{theme} still has another theme's colours"
        if kind in (TILES, CELLS):
            signs = {char for y in range(8) for char in app.side.residency.map.render_line(y).text if char in "◆▲✕▫▪■"}
            assert signs <= {char for char, _ in shown} and len(signs) == 6


async def test_the_legend_explains_what_a_model_has_shown_and_no_more(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(200, 60)) as pilot:
        await scene.show(app, pilot, scene.decode("x"))
        assert "held whole" not in app.side.residency.legend.render().plain
        whole = replace(scene.decode("x"), cells=bytes([HELD] * 32 + [USED | COARSE] * 224))
        await scene.show(app, pilot, whole)
        words = app.side.residency.legend.render().plain
        assert "held whole 32" in words and "coarse 224" in words and "in use 224" in words
        assert all(cell & STATE_BITS == USED for cell in whole.cells[32:])


async def test_beside_a_costly_map_everything_is_of_one_moment_and_the_answer_waits_for_nothing(tmp_path):
    app = scene.chat(scene.idle(LARGE), tmp_path)
    async with app.run_test(size=(200, 60)) as pilot:
        await scene.show(app, pilot, scene.idle(LARGE))
        first = scene.decode("x", 40, model=LARGE)
        await scene.show(app, pilot, first)
        residency = app.side.residency
        drawn = [residency.map.render_line(y).text for y in range(48)]
        assert residency.map.costly
        await scene.show(app, pilot, replace(scene.decode("x", 43, model=LARGE), time=first.time + 0.2))
        assert "43 tokens" in app.progress.render().plain
        assert drawn == [residency.map.render_line(y).text for y in range(48)]
        told = residency.legend.render().plain
        assert f"in use {first.cells.count(USED)} " in told, "the legend counts what the map shows"
        later = replace(scene.decode("x", 46, model=LARGE), time=first.time + 0.8)
        await scene.show(app, pilot, later)
        assert drawn != [residency.map.render_line(y).text for y in range(48)]
        assert f"in use {later.cells.count(USED)} " in residency.legend.render().plain
        last = scene.over(scene.decode("x", 47, model=LARGE))
        await scene.show(app, pilot, replace(last, time=later.time + 0.1))
        assert f"in use {last.cells.count(USED)} " in residency.legend.render().plain, "the end waits for no turn"


async def test_theatre_fills_the_screen_and_the_answer_stays(tmp_path):
    app = scene.chat(scene.idle(LARGE), tmp_path)
    async with app.run_test(size=(132, 40)) as pilot:
        await scene.show(app, pilot, scene.idle(LARGE))
        await app.ask(scene.QUESTION)
        await scene.show(app, pilot, scene.decode(app.turn, 20, "So far.", LARGE))
        assert app.side.residency.map.drawing.kind == BRAILLE
        await pilot.press("f4")
        await pilot.pause()
        map_ = app.side.residency.map
        assert app.side.region.width == 132 and map_.drawing.kind == HALF, "128 experts across, with no frame"
        assert app.transcript.region.height >= 4 and app.prompt.has_focus and app.prompt.region
        await scene.show(app, pilot, scene.decode(app.turn, 30, "So far. And so on.", LARGE))
        assert app.transcript.last_answer.text == "So far. And so on."
        await pilot.press(*"more")
        assert app.prompt.text == "more", "one can go on talking"
        await scene.show(app, pilot, scene.over(app.shown))
        await pilot.press("escape")
        await pilot.pause()
        assert not app.in_theatre and app.side.region.width == 72 and app.side.region.x == 60
        for way in ("ctrl+u", *"/theatre", "enter"):
            await pilot.press(way)
        await pilot.pause()
        assert app.in_theatre
        await pilot.press("ctrl+g")
        await pilot.pause()
        assert not app.in_theatre and app.side.region


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("size", [(60, 20), (80, 24), (100, 30), (200, 60), (30, 10)])
async def test_theatre_at_any_size_keeps_prompt_and_map(tmp_path, size):
    app = scene.chat(scene.idle(LARGE), tmp_path)
    async with app.run_test(size=size) as pilot:
        await scene.show(app, pilot, scene.decode("x", model=LARGE))
        await pilot.press("f4")
        await pilot.pause()
        assert app.side.residency.map.region.height >= 1 and app.prompt.region.bottom <= size[1]
        await pilot.resize_terminal(132, 40)
        await pilot.pause()
        assert app.side.region.width == 132
        await pilot.press("f4")
        await pilot.pause()
        assert app.side.region.width == 72
