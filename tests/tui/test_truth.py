"""Figures and colours say what is so: readable labels, whole figures, plain screens, places that are kept."""

import asyncio
import re
from dataclasses import replace

import pytest
from textual.color import Color
from textual.content import Content
from textual.widgets import Static

from moe_mlx_tui.chat_app import ChatApp
from moe_mlx_tui.drawing.contrast import WANTED, contrast
from moe_mlx_tui.drawing.plain_output import plainly
from moe_mlx_tui.drawing.themes import EMBER, PAPER
from moe_mlx_tui.engine.orders import Ask
from moe_mlx_tui.engine.snapshot import Memory
from moe_mlx_tui.screens.stats import StatsScreen
from tests.tui import scene

WIDE = (132, 40)


def themes():
    """Every theme that can be chosen, the terminal's own colours apart: nobody knows what they are."""
    app = ChatApp(scene.Still(scene.idle()), home=None, poll=False)
    known = [theme.name for theme in app.available_themes.values() if not theme.name.startswith("ansi")]
    return sorted({*known, EMBER.name, PAPER.name})


def screen_of(app):
    """The screen's lines as runs of text and style."""
    return [[*strip] for strip in app.screen._compositor.render_strips()]


def text_of(app):
    """The screen as text."""
    return "\n".join("".join(text for text, _, _ in line) for line in screen_of(app))


def faint(app):
    """Every word that is too near to its ground, with the ratio; under a dialog the screen is dimmed on purpose."""
    dialogs = app.screen.query(".dialog")
    area = dialogs.first().region if dialogs else app.screen.region
    found = []
    for y, line in enumerate(screen_of(app)):
        x = 0
        for text, style, _ in line:
            here, x = (x, y), x + len(text)
            if here not in area or not re.search(r"\w", text) or style is None or not style.color or not style.bgcolor:
                continue
            front, back = (Color.from_rich_color(colour) for colour in (style.color, style.bgcolor))
            if (ratio := contrast(front, back)) < WANTED:
                found.append((text.strip(), round(ratio, 2)))
    return found


@pytest.mark.parametrize("chosen", [(EMBER.name, PAPER.name), pytest.param((), id="all", marks=pytest.mark.slow)])
async def test_every_label_can_be_read_in_every_theme(tmp_path, chosen):
    app = scene.chat(scene.idle(), tmp_path)
    found = {}

    async with app.run_test(size=(132, 44)) as pilot:

        async def look(name):
            for theme in chosen or themes():
                app.theme = theme
                await pilot.pause()
                if words := faint(app):
                    found[name, theme] = words

        await scene.show(app, pilot, scene.idle())
        await scene.converse(app, pilot, text="Air scatters **blue** light.")
        await scene.show(app, pilot, scene.over(app.shown, finish="length"))
        await scene.show(app, pilot, replace(app.shown, remarks=("warmed 4 experts",), remark_count=1))
        await pilot.press("ctrl+g", "tab")  # the cursor is no label
        await look("receipt")
        await app.run_action("settings")
        await pilot.pause()
        await look("settings")
    assert len(themes()) > 15 and not found


async def test_agreement_is_the_audit_s_word_alone(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(132, 60)) as pilot:
        await scene.show(app, pilot, scene.idle())
        snapshot = await scene.converse(app, pilot)
        await scene.show(app, pilot, scene.over(snapshot))
        shown = text_of(app)
        assert app.side.gauges.lines > 1, "else the second figures are not drawn"
        assert "agreement" not in shown and "running" not in shown
        assert re.search(r"missed +160 ", shown) and re.search(r"weight moved +8\.00 ", shown), shown


@pytest.mark.parametrize("size", [(110, 50), (132, 50), (200, 60)])
async def test_no_figure_of_memory_is_cut(tmp_path, size):
    model = replace(scene.facts(), expert_bytes=(829_000,) * 8)
    memory = Memory(212_224_000, 1, 1, 1, 1, 10**8, 10**9, 25 * 10**9, 123_400_000)
    app = scene.chat(scene.idle(model), tmp_path)
    async with app.run_test(size=size) as pilot:
        await scene.show(app, pilot, replace(scene.idle(model), slots_per_layer=(32,) * 8, memory=memory))
        assert "212.2 MB of 212.2 MB (100%)" in text_of(app)
        assert "1.0 GB free, swap 123.4 MB" in text_of(app)


async def test_square_brackets_stay_in_every_line(tmp_path, monkeypatch):
    """Textual reads such lines as markup: a name in brackets would be gone."""
    monkeypatch.chdir(tmp_path)
    model = replace(scene.facts(), name="demo[4bit]")
    idle = replace(scene.idle(model), routing="cache-prior [x]", remarks=("kept [warm]",), remark_count=1)
    app = scene.chat(idle, tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, idle)
        assert "demo[4bit]" in text_of(app) and "cache-prior [x]" in text_of(app)
        await pilot.press(*"[b]x[/b]", "enter")
        await pilot.pause()
        ended = scene.over(scene.decode(app.turn, 20, "An [a] answer.", model))
        await scene.show(app, pilot, replace(ended, routing=idle.routing))
        await app.workers.wait_for_complete()
        shown = text_of(app)
        for words in ("[b]x[/b]", "An [a] answer.", "kept [warm]"):
            assert words in shown
        await pilot.press("ctrl+s")
        await pilot.pause()
        assert "[b]x[/b]" in text_of(app)
        await pilot.press("escape")
        app.action_stats()
        await pilot.pause()
        assert "cache-prior [x]" in text_of(app)


async def test_a_screenshot_makes_its_folder_and_says_where_it_is(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        for number in (1, 2):
            app.action_screenshot(path=str(tmp_path / "not yet" / "there"))
            file = tmp_path / "not yet" / "there" / f"moe-mlx-{number}.svg"
            await pilot.pause()
            assert file.read_text().startswith("<svg")
            assert str(file) in [*app._notifications][-1].message
        (tmp_path / "file").write_text("")
        app.action_screenshot(path=str(tmp_path / "file" / "below"))
        await pilot.pause()
        assert "no screenshot" in [*app._notifications][-1].message


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("size", [(132, 40), (80, 24)])
async def test_ascii_has_nothing_but_ascii(tmp_path, size):
    app = scene.chat(scene.idle(), tmp_path, plain=True)
    async with app.run_test(size=size) as pilot:
        seen = {}

        async def look(name):
            await pilot.pause()
            seen[name] = sorted({letter for letter in text_of(app) if ord(letter) > 126})

        await scene.show(app, pilot, scene.loading())
        await look("loading")
        await scene.show(app, pilot, scene.idle())
        await look("idle")
        snapshot = await scene.converse(app, pilot)
        await look("answer")
        await scene.show(app, pilot, scene.over(snapshot, finish="length"))
        await look("receipt")
        for action in ("stats", "settings", "command_palette"):
            await app.run_action(action)
            await look(action)
            await pilot.press("escape")
        app.notify("a toast")
        await look("toast")
        await pilot.press("ctrl+g")
        await look("map")
        assert not any(seen.values()), seen


def test_plain_signs_keep_letters_and_widths():
    assert plainly("é 你 → │ ●…") == "é 你 > | *."
    assert plainly("as it was") == "as it was"


async def test_stats_shows_stats(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.decode("x", 40))
        await pilot.press(*"/stats", "enter")
        await pilot.pause()
        assert isinstance(app.screen, StatsScreen)
        shown = text_of(app)
        assert re.search(r"hit +1,120 \(87\.5%\)", shown) and re.search(r"missed +160 \(12\.5%\)", shown)
        await pilot.press("escape")
        await pilot.pause()
        assert not isinstance(app.screen, StatsScreen)


async def test_a_budget_that_is_held_has_its_gauge_and_says_why(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        held = {"price": "quality KL 0.002", "spent": 0.83, "why": "[b]lambda 0.05: so that it holds"}
        await scene.show(app, pilot, replace(scene.decode("x", 39), **held))
        await scene.show(app, pilot, replace(scene.decode("x", 40), **held))
        assert re.search(r"budget +83% spent", text_of(app)) and "swapped   " not in text_of(app).split("budget")[0]
        await pilot.press(*"/stats", "enter")
        await pilot.pause()
        shown = text_of(app)
        assert "held: quality KL 0.002" in shown and "83% of the budget" in shown
        assert "[b]lambda 0.05: so that it holds" in shown


async def test_what_evaluations_found_of_a_routing_stands_in_the_stats(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, replace(scene.decode("x", 40), measured="at 50% KL 0.001"))
        await pilot.press(*"/stats", "enter")
        await pilot.pause()
        assert re.search(r"measured +at 50% KL 0.001", text_of(app))


async def test_what_is_sent_while_loading_is_answered_under_the_model_s_name(tmp_path):
    app = scene.chat(scene.loading(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.loading())
        await pilot.press(*"hello", "enter")
        await pilot.pause()
        assert isinstance(app.source.orders[-1], Ask)
        await scene.show(app, pilot, scene.decode(app.turn, 20, "Hi."))
        assert str(app.transcript.last_answer.query_one(".who", Static).content) == "demo"
        assert app.talk.model == "demo"


async def test_a_window_made_smaller_keeps_its_place(tmp_path):
    app = scene.chat(scene.idle(), tmp_path)
    words = "\n\n".join(f"Paragraph {n}. " + "word " * 30 for n in range(12))
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        for turn in range(3):
            await app.ask(f"question {turn}")
            await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, words)))
        await app.workers.wait_for_complete()
        place = app.transcript.turns[2]  # the second question
        app.transcript.scroll_to(y=place.virtual_region.y, animate=False, immediate=True)
        await pilot.pause()
        for size in ((60, 20), (100, 30), (132, 40)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.pause()
            assert abs(app.transcript.scroll_y - place.virtual_region.y) <= 1, size
        app.transcript.scroll_end(animate=False, immediate=True)
        await pilot.pause()
        await pilot.resize_terminal(60, 20)
        async with asyncio.timeout(20):  # a busy machine lays out later than two pauses
            while app.size.width != 60 or not app.transcript.is_vertical_scroll_end:
                await pilot.pause()


async def test_the_progress_line_keeps_its_figure_at_any_width(tmp_path):
    """A telephone has some 48 columns, and a model's path may be as long."""
    path = "/Users/somebody/models/mlx-community--Qwen3-30B-A3B-4bit"
    cases = [
        (replace(scene.prefill("t"), total=131_072, done=104_448), "104448 of 131072 tokens"),
        (replace(scene.prefill("t"), queued=2), "768 of 2048 tokens · 2 waiting"),
        (replace(scene.loading(), activity=f"loading {path}"), "3.0 MB of 4.5 MB"),
        (replace(scene.loading(), activity="waiting for another moe-mlx that compiles", total=0, time=75.0), "1:15"),
        (replace(scene.decode("t", 40), tokens=1024, queued=1), "1024 tokens · 1 waiting"),
    ]
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=(132, 24)) as pilot:
        await scene.show(app, pilot, scene.idle())
        for columns in (34, 44, 48, 60, 100):
            app.progress.styles.width = columns + 4
            async with asyncio.timeout(20):
                while app.progress.size.width != columns:
                    await pilot.pause()
            for snapshot, figure in cases:
                app.progress.show(snapshot)
                line = app.progress.render().plain
                assert figure in line and Content(line).cell_length <= columns, (columns, line)
                assert "━" in line or columns < 100 or not snapshot.total or snapshot.phase == "decode", line


def ends_in_view(app):
    """Whether the last line of a conversation can be seen."""
    return "waited 0.08 s" in " ".join(text_of(app).split()).replace("▌ ", "")


async def test_less_room_leaves_the_end_of_a_short_conversation_in_view(tmp_path):
    """What fitted whole was never scrolled; the theatre, a smaller window, a tablet's keyboard take the room away."""
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await scene.exchange(app, pilot, "question", "One. " * 40 + "\n\nThe end.")
        assert app.transcript.max_scroll_y == 0
        for key, size in (("f4", WIDE), ("f4", WIDE), ("", (132, 18)), ("", (60, 16))):
            if key:
                await pilot.press(key)
            else:
                await pilot.resize_terminal(*size)
            async with asyncio.timeout(20):
                while app.size != size or not ends_in_view(app):
                    await pilot.pause()
            assert app.transcript.scroll_y == app.transcript.max_scroll_y, "no gap above it"


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("rows", [21, 22, 23])
async def test_a_receipt_that_makes_the_conversation_too_long_is_seen(tmp_path, rows):
    """Nothing follows it that would scroll the view."""
    app = scene.chat(scene.idle(), tmp_path)
    text = "Once there was a hungry dragon named Stella, who lived in the library. " * 8
    async with app.run_test(size=(132, rows)) as pilot:
        await scene.show(app, pilot, scene.idle())
        await app.ask("question")
        for part in range(1, 9):
            await scene.show(app, pilot, scene.decode(app.turn, part, text[: len(text) * part // 8]))
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, text)))
        async with asyncio.timeout(20):
            while not ends_in_view(app):
                await pilot.pause()


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("columns", [40, 52, 58, 60, 66, 72])
async def test_no_word_of_the_memory_s_figures_is_cut(tmp_path, columns):
    memory = Memory(212_224_000, 992_000, 101_300_000, 555_600_000, 723_400_000, 10**8, 10**9, 25 * 10**9, 0)
    app = scene.chat(scene.idle(), tmp_path)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, replace(scene.idle(), memory=memory))
        app.side.styles.width = columns
        async with asyncio.timeout(20):
            while app.side.memory.outer_size.width not in (columns, columns - 1):
                await pilot.pause()
        line = app.side.memory.render().plain.split("\n")[-1]
        assert len(line) <= app.side.memory.size.width and "weights 992.0 kB" in line, line
