"""The parts that need no screen: sections, sparklines, trends, painting, output, history, sessions."""

import argparse
import random
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from moe_mlx.commands.bench_tui import add_soak_arguments, add_tui_arguments
from moe_mlx.errors import StoreCorruptError, StoreMissingError
from moe_mlx_tui.drawing.cells import (
    ABSENT,
    AGE_EDGES,
    ARRIVED,
    COARSE,
    EVICTED,
    HELD,
    LATE,
    NEWEST,
    OLDEST,
    STATES,
    USED,
    describe,
    resident_count,
)
from moe_mlx_tui.drawing.drawings import ASCII, BRAILLE, HALF, MODES, PAIR, SMALLEST_TILE, TILES, Drawing
from moe_mlx_tui.drawing.lean_output import compact
from moe_mlx_tui.drawing.painting import BLANK, grid_of, paint
from moe_mlx_tui.drawing.sections import SAID, THOUGHT, TOOL, split, spoken, tool_body, tool_title
from moe_mlx_tui.drawing.spark import columns, meter, spread
from moe_mlx_tui.drawing.trends import Trends
from moe_mlx_tui.engine.cell_sampler import CellSampler
from moe_mlx_tui.engine.snapshot import Snapshot
from moe_mlx_tui.saved.conversation import Conversation, load
from moe_mlx_tui.saved.prompt_history import PromptHistory
from moe_mlx_tui.saved.sessions import Sessions
from moe_mlx_tui.widgets.answer_view import receipt_line
from tests.tui import scene

THINK, CALL = ("<think>", "</think>"), ("<tool_call>", "</tool_call>")
WHOLE = '<think>\nhm, <b>\n</think>\n\nSo.\n<tool_call>{"name": "look", "arguments": {}}</tool_call>Done <thi'


def test_sections_of_a_whole_answer():
    found = split(WHOLE, THINK, CALL, final=True)
    assert [s.kind for s in found] == [THOUGHT, SAID, TOOL, SAID]
    assert found[0].text == "hm, <b>\n" and found[3].text == "Done <thi"
    assert tool_title(found[2].text) == "tool call: look" and "```json" in tool_body(found[2].text)
    assert spoken(WHOLE, THINK).startswith("So.")


def test_sections_only_grow_as_the_text_does():
    before = []
    for end in range(len(WHOLE) + 1):
        now = split(WHOLE[:end], THINK, CALL)
        assert len(now) >= len(before)
        for old, new in zip(before, now, strict=False):
            assert new.kind == old.kind and new.text.startswith(old.text.rstrip("\n")), (end, old, new)
            assert not old.closed or new == old
        before = now


@pytest.mark.parametrize("text", ["not json", "[1]", '{"arguments": 1}'])
def test_a_tool_call_that_is_none_is_shown_as_it_is(text):
    assert tool_title(text) == "tool call" and "```" in tool_body(text)


def test_columns_are_right_aligned_and_never_hide_a_value():
    assert columns([0, 0.01, 0.5, 1, 2], 6, 1.0) == ["  ▁▄██"]
    assert columns([0.5, 1], 2, 1.0, rows=2) == [" █", "██"]
    assert columns([], 3, 0.0) == ["   "] and columns([1.0], 0, 1.0) == [""]
    assert all(ord(c) < 128 for c in columns([0.1, 0.9], 2, 1.0, plain=True)[0])


def test_spread_and_meter():
    assert spread([0.5, 0.7], 6) == [0.5, 0.5, 0.0, 0.7, 0.7, 0.0]
    assert spread([0.5, 0.7, 0.1, 0.9], 2) == [0.5, 0.1]
    assert spread([], 5) == [] and [len(spread([1.0] * n, 40)) <= 40 for n in range(1, 100)] == [True] * 99
    assert meter(0.5, 4) == ("━━", "──") and meter(0.001, 4)[0] == "━" and meter(7, 3, plain=True) == ("###", "")


def test_trends_are_rates_over_a_window():
    trends = Trends()
    for frame in range(1, 33):
        trends.feed(scene.decode("a", frame))
    assert trends.hit[-1] == pytest.approx(28 / 32) and trends.swapped[-1] == pytest.approx(2 / 32)
    assert trends.read[-1] == pytest.approx(4 * 27648 * 8)
    assert trends.wait[-1] == pytest.approx(0.002 * 8)
    count = len(trends.hit)
    trends.feed(scene.idle())
    trends.feed(scene.decode("b", 1))
    assert len(trends.hit) == count


@pytest.mark.parametrize("shape", [(4, 8), (8, 32), (48, 128), (92, 512), (3, 5)])
@pytest.mark.parametrize("mode", MODES)
def test_every_drawing_shows_what_is_resident(shape, mode):
    model = scene.facts(*shape)
    cells = scene.cells_of(model)
    painted = paint(grid_of(cells, model), SMALLEST_TILE if mode == TILES else Drawing(mode))
    assert painted.characters.shape == painted.cells.shape
    if mode == BRAILLE:
        dots = sum(bin(int(c) - 0x2800).count("1") for c in painted.characters.flat)
    elif mode == HALF:
        both = (painted.characters == ord("▀")) & (painted.cells % PAIR != ABSENT)
        dots = int(((painted.characters == ord("▀")) | (painted.characters == ord("▄"))).sum() + both.sum())
    else:
        absent = {ord("·"), ord("✕"), ord("."), ord("x"), ord(" ")}
        dots = sum(int(c) not in absent for c in painted.characters.flat)
    assert dots == resident_count(cells)


def test_layers_of_different_size():
    model = replace(scene.facts(2, 4), experts=(4, 2), top_k=(1, 1), expert_bytes=(1, 1))
    grid = grid_of(bytes([USED] * 6), model)
    assert grid.tolist() == [[USED] * 4, [USED, USED, BLANK, BLANK]]
    for mode in MODES:
        paint(grid, SMALLEST_TILE if mode == TILES else Drawing(mode))


def test_plain_drawing_is_plain():
    painted = paint(grid_of(scene.cells_of(scene.facts()), scene.facts()), Drawing(ASCII))
    assert painted.characters.max() < 128 and len(set(painted.characters.flat)) >= 6


class _Layer:
    def __init__(self, table, top_k):
        self.table, self.spec = table, type("Spec", (), {"top_k": top_k})


class _Runtime:
    def __init__(self, *layers):
        self.layers = layers


def test_the_sampler_tells_used_arrived_evicted_and_age():
    from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
    from moe_mlx.expert_cache.residency import ResidencyTable

    table = ResidencyTable(8, 4, LeastRecentlyUsed())
    sampler = CellSampler(_Runtime(_Layer(table, 2)))

    def use(*experts):
        missed = []
        for placed in table.begin(experts).misses:
            table.commit(placed)
            missed.append(placed.expert)
        table.count(experts, missed)
        return sampler.sample()

    sampled = use(0, 1)
    first, slots = sampled["cells"], sampled["slots"]
    assert first[0] == first[1] == USED and first[2:] == bytes([ABSENT] * 6) and slots[:2] == b"\x00\x00"
    assert list(use(2, 3)["cells"][:4]) == [NEWEST, NEWEST, ARRIVED, ARRIVED]
    cells = use(4, 2)["cells"]
    assert cells[4] == ARRIVED and cells[2] == USED and cells[0] == EVICTED
    for _ in range(600):
        sampled = use(2, 4)
    cells = sampled["cells"]
    assert cells[3] == OLDEST and "more than" in describe(cells[3])
    counted = Snapshot(**sampled)
    assert [counted.counts(place) for place in (0, 2, 4, 7)] == [(1, 1), (602, 1), (601, 1), (0, 0)]
    full = ResidencyTable(2, 2, LeastRecentlyUsed())
    for placed in full.begin([0, 1]).misses:
        full.commit(placed)
    assert CellSampler(_Runtime(_Layer(full, 1))).sample()["cells"] == bytes([HELD, HELD])
    assert len({describe(cell) for cell in range(STATES)}) == STATES and len(AGE_EDGES) == NEWEST - OLDEST


def test_the_sampler_tells_a_late_read_from_one_that_was_waited_for():
    from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
    from moe_mlx.expert_cache.residency import ResidencyTable

    table = ResidencyTable(8, 4, LeastRecentlyUsed())
    sampler = CellSampler(_Runtime(_Layer(table, 2)))
    sampler.sample()  # what it has not seen arrive counts as used
    for late, expected in (((1,), (ARRIVED, LATE)), ((), (USED, USED))):
        missed = table.begin([0, 1]).misses
        for placed in missed:
            table.commit(placed)
        table.count([0, 1], [placed.expert for placed in missed], late)
        assert tuple(sampler.sample()["cells"][:2]) == expected


def test_the_sampler_tells_high_bits_from_a_whole_expert():
    from moe_mlx.expert_cache.eviction import LeastRecentlyUsed
    from moe_mlx.expert_cache.residency import ResidencyTable

    table = ResidencyTable(8, 2, LeastRecentlyUsed(), low=2)
    sampler = CellSampler(_Runtime(_Layer(table, 2)))
    sampler.sample()
    for placed in table.begin([0, 1], coarse=[1]).misses:
        table.commit(placed)
    assert tuple(sampler.sample()["cells"][:3]) == (ARRIVED, ARRIVED | COARSE, ABSENT)


def test_an_answer_s_line_tells_what_was_coarse():
    receipt = scene.over(scene.decode("t")).receipt
    assert "coarse" not in receipt_line(receipt).plain
    assert " · coarse 12.3% · " in receipt_line(replace(receipt, coarse_share=0.123)).plain


def test_an_answer_s_line_tells_who_was_late():
    receipt = scene.over(scene.decode("t")).receipt
    assert "late" not in receipt_line(receipt).plain
    assert " · late 12.3% · " in receipt_line(replace(receipt, late_share=0.123)).plain


def test_a_receipt_names_the_profile_in_force():
    receipt = scene.over(scene.decode("t")).receipt
    assert "profile" not in receipt_line(receipt).plain
    assert receipt_line(replace(receipt, profile="sums")).plain.endswith(" · profile sums")


def screen_of(data):
    """A terminal as far as it is needed: what stands where, and how it is coloured (blanks show their ground only)."""
    shown, row, column = {}, 0, 0
    attributes, colour, ground = frozenset(), "", ""
    for move, codes, text in re.findall(r"\x1b\[(\d+;\d+)H|\x1b\[([0-9;]*)m|([^\x1b])", data):
        if move:
            row, column = map(int, move.split(";"))
        elif text:
            plain = text == " " and not attributes
            shown[row, column] = (text, attributes, "" if plain else colour, ground)
            column += 1
        else:
            words = codes.split(";")
            while words:
                word = words.pop(0)
                if word in ("0", ""):
                    attributes, colour, ground = frozenset(), "", ""
                elif word in ("38", "48"):
                    value = tuple(words[: 2 if words[0] == "5" else 4])
                    del words[: len(value)]
                    colour, ground = (value, ground) if word == "38" else (colour, value)
                elif len(word) == 2 and word[0] in "39":
                    colour = word
                elif (len(word) == 2 and word[0] == "4") or len(word) == 3:
                    ground = word
                else:
                    attributes |= {word}
    return shown


def test_lean_output_draws_the_same():
    rng = random.Random(1)
    inks = ["", "38;5;200", "38;2;1;2;3", "31", "97", "1;38;5;3", "4;9;38;5;3", "7", "2"]
    grounds = ["", "48;5;9", "48;2;1;2;3", "41", "103"]
    for _ in range(300):
        out = []
        for _ in range(rng.randrange(1, 40)):
            codes = ";".join(filter(None, (rng.choice(inks), rng.choice(grounds))))
            text = rng.choice(["a", "⣿", "  ", " ", "b c"])
            out.append(f"\x1b[{codes}m{text}\x1b[0m" if codes else text)
            if rng.random() < 0.2:
                out.append(f"\x1b[{rng.randrange(1, 9)};{rng.randrange(1, 9)}H")
        data = "".join(out)
        assert screen_of(compact(data) + "z") == screen_of(data + "z")
        assert len(compact(data)) <= len(data) + 4


def test_history_survives_rubbish_and_a_read_only_folder(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('"one"\nrubbish\n{"a":1}\n"two\\nlines"\n')
    history = PromptHistory(path)
    assert history.entries == ["one", "two\nlines"]
    history.add("three")
    history.add("three")
    assert PromptHistory(path).entries == ["one", "two\nlines", "three"]
    blocked = PromptHistory(path / "below" / "a file")
    blocked.add("kept in memory")
    assert blocked.older() == "kept in memory"


def test_sessions_are_saved_whole_found_and_refused(tmp_path):
    sessions = Sessions(tmp_path / "s")
    assert sessions.paths() == []
    with pytest.raises(StoreMissingError, match="without --resume"):
        sessions.open("latest")
    talk = Conversation(system="be brief", model="demo")
    talk.say("hello\nyou")
    sessions.save(talk)
    assert sessions.paths()[0].stat().st_mode & 0o077 == 0
    again = sessions.open("latest")
    assert again == talk and again.title == "hello" and sessions.open(talk.ident[:8]) == talk
    with pytest.raises(StoreMissingError, match="no session is called"):
        sessions.open("99999")
    sessions.paths()[0].write_text("{}")
    with pytest.raises(StoreCorruptError, match="no session of moe-mlx"):
        load(sessions.paths()[0])


def test_the_screen_side_imports_no_mlx():
    code = (
        "import sys, moe_mlx_tui.app, moe_mlx_tui.engine.engine, moe_mlx_tui.recording.replay;"
        "import moe_mlx_tui.web.remote_source;"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('mlx', 'mlx_lm', 'transformers', 'moe_mlx_convert')];"
        "sys.exit(f'{bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    arguments = (
        "import sys, moe_mlx_tui.arguments, moe_mlx.commands.replay;"
        "sys.exit('textual' in sys.modules or 'mlx' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", arguments], check=True)


def test_a_short_soak(tiny):
    from moe_mlx_tui.measuring.soak import soak

    parser, said = argparse.ArgumentParser(), []
    add_soak_arguments(parser)
    args = parser.parse_args(["--model", str(tiny), "--expert-cache", "50%", "--max-tokens", "12"])
    assert soak(args, seconds=1.5, growth=0.5, say=said.append) == 0
    assert "flat" in said[-1]


def test_answers_with_and_without_the_app_are_raced_on_a_terminal(tiny):
    from moe_mlx_tui.measuring.overhead import compare

    parser = argparse.ArgumentParser()
    add_tui_arguments(parser)
    words = ["--model", str(tiny), "--expert-cache", "50%", "--max-tokens", "12", "--rounds", "1"]
    first, median = compare(parser.parse_args(words)).splitlines()
    assert float(re.fullmatch(r"round 1: +([\d.]+) tokens/s without the app, +[\d.]+ with it", first)[1]) > 0
    assert "12 tokens an answer" in median


def test_a_race_that_is_interrupted_leaves_nothing_running(tiny, monkeypatch):
    from moe_mlx_tui.measuring import overhead

    children = []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    def popen(*words, **options):
        children.append(subprocess.Popen(*words, **options))
        return children[0]

    monkeypatch.setattr(overhead, "select", SimpleNamespace(select=interrupted))
    monkeypatch.setattr(overhead, "subprocess", SimpleNamespace(Popen=popen))
    with pytest.raises(KeyboardInterrupt):
        overhead.on_terminal({"kind": "frames", "frames": 10**6})
    assert children[0].wait(20) != 0


def test_a_frame_of_the_large_map_stays_small():
    from moe_mlx_tui.measuring.overhead import bytes_a_frame

    line = bytes_a_frame(8)
    assert float(re.search(r"([\d.]+) kB", line)[1]) <= 15.0, line
