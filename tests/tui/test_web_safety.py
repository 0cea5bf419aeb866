"""What a browser may cost the server: sizes, messages, tabs, and processes that end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from moe_mlx.errors import MoeMlxError
from moe_mlx_tui.engine.orders import Configure
from moe_mlx_tui.engine.shared_engine import SharedEngine
from tests.tui import scene
from tests.tui.serving import ONE, PATIENCE, THREE, TWO, children, closed, drawn, running, site

aiohttp = pytest.importorskip("aiohttp")
pytest.importorskip("textual_serve")

from moe_mlx_tui.saved.conversation import Conversation  # noqa: E402
from moe_mlx_tui.saved.sessions import Sessions  # noqa: E402
from moe_mlx_tui.web.addresses import address, draw_code, listen, reachable  # noqa: E402
from moe_mlx_tui.web.limits import COLUMNS, MESSAGE, ROWS, within  # noqa: E402
from moe_mlx_tui.web.seats import FullError, Seats  # noqa: E402
from moe_mlx_tui.web.site import ELSEWHERE, FULL  # noqa: E402
from moe_mlx_tui.web.tab_app import TabApp, Touched  # noqa: E402
from moe_mlx_tui.web.tab_options import TabOptions  # noqa: E402


@pytest.fixture
def options(tmp_path):
    """What a tab is told, over a source that stands still."""
    home = SharedEngine(scene.Still(scene.idle()), tmp_path / "s")
    home.start()
    yield TabOptions(engine=str(tmp_path / "s"), home="", kept=str(tmp_path / "kept"), server=os.getpid())
    home.close()


@pytest.mark.parametrize("asked", ["1000000", "9" * 5000, 10**9, 1e9, None, "x", [], -5, "0"], ids=str)
def test_a_screen_s_size_is_held_within_bounds(asked):
    assert COLUMNS[0] <= within(asked, COLUMNS, 80) <= COLUMNS[1]
    assert ROWS[0] <= within(asked, ROWS, 24) <= ROWS[1]


async def test_a_tab_of_absurd_size_runs_at_the_largest_allowed(options, tmp_path):
    async with site(options, tmp_path) as (_, open_tab):
        tab = await open_tab(ONE, "width=1000000&height=1000000")
        await running(tab)
        await tab.send_str('["resize",{"width":1e300,"height":"1000000"}]')
        (pid,) = children()
        if sys.platform == "linux":
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            assert pages * os.sysconf("SC_PAGE_SIZE") < 300_000_000
        await tab.close()
    assert not children()


@pytest.mark.slow
async def test_a_message_that_is_too_long_or_makes_no_sense_ends_its_connection(options, tmp_path):
    async with site(options, tmp_path) as (_, open_tab):
        for said in ("x" * (MESSAGE + 1), "no json", '{"a":1}', '["stdin",7]', "[" * 500, '["format the disk"]'):
            tab = await open_tab(ONE)
            await tab.send_str(said)
            assert await closed(tab) in (1008, 1009), said[:20]


@pytest.mark.slow
async def test_tabs_are_counted_and_the_one_too_many_is_told_why(options, tmp_path):
    async with site(options, tmp_path) as (_, open_tab):
        first, second = await open_tab(ONE), await open_tab(TWO)
        await running(first)
        await running(second)
        assert await closed(await open_tab(THREE)) == FULL and len(children()) == 2
        again = await open_tab(ONE)  # a reload: the connection before may not have ended yet
        assert await closed(first) == ELSEWHERE
        await running(again)
        await second.close()
        await again.close()
    assert not children()


async def test_a_place_is_one_tab_s_and_old_folders_go(tmp_path, monkeypatch):
    monkeypatch.setattr("moe_mlx_tui.web.seats.FOLDERS", 2)
    seats = Seats(tmp_path, 1)

    async def leave():
        raise AssertionError("nobody else is here")

    for number in range(6):
        async with seats.seat(f"{number:032x}", leave) as own:
            (own / "talk.json").write_text("{}")
            with pytest.raises(FullError, match="close one"):
                async with seats.seat("f" * 32, leave):
                    pass
    assert len(list(tmp_path.iterdir())) == 3 and len(seats) == 0


async def test_tabs_do_not_see_each_other_s_conversations_or_the_owner_s(options, tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_MLX_HOME", str(tmp_path / "owner"))
    Sessions(tmp_path / "owner" / "sessions").save(Conversation(messages=[{"role": "user", "content": "the owner's"}]))
    async with site(options, tmp_path) as (_, open_tab):
        for name in (ONE, TWO):
            tab = await open_tab(name)
            await running(tab)
            await tab.send_str('["focus"]')
            await tab.send_str(json.dumps(["stdin", f"written in {name[0]}"]))
            await drawn(tab, f"written in {name[0]}")
            await tab.send_str('["touch","sessions"]')
            await drawn(tab, "no session is saved yet")
            await tab.close()
    drafts = {path.parent.name: path.read_text() for path in (tmp_path / "tabs").glob("*/draft.txt")}
    assert drafts == {ONE: "written in 1", TWO: "written in 2"}


async def test_a_name_that_is_no_tab_s_is_refused(options, tmp_path):
    async with site(options, tmp_path) as (served, _):
        for path in ("/ws/..%2f..%2fhome", "/ws/" + "g" * 32, "/ws/x"):
            assert (await served.fetch(path)).status in (400, 404)
        page = await served.fetch("/")
        assert page.status == 200 and "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert "//" not in (await page.text()).replace("<!DOCTYPE html>", "")  # nothing comes from elsewhere


def start(options):
    """Starts a tab's process by itself; its first line is read."""
    environment = {
        **os.environ,
        **options.to_environment(),
        "TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver",
        "COLUMNS": "200",
        "ROWS": "60",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "moe_mlx_tui.web.tab"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdout.readline() == b"__GANGLION__\n"
    return process


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("how", ["its pipe ends", "SIGTERM", "SIGHUP"])
def test_a_tab_whose_output_nobody_reads_ends_all_the_same(options, how):
    process = start(options)
    if how == "its pipe ends":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    expected = {"its pipe ends": 1, "SIGTERM": 143, "SIGHUP": 129}
    assert process.wait(timeout=PATIENCE) == expected[how]
    process.stdout.close()
    if process.stdin:
        process.stdin.close()


@pytest.mark.slow
def test_a_server_that_is_killed_leaves_no_tab(tmp_path):
    command = [sys.executable, "-m", "tests.tui.serving", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = int(server.stdout.readline())
    os.kill(pid, 0)
    server.kill()
    server.wait(timeout=PATIENCE)
    server.stdout.close()
    limit, look = time.monotonic() + PATIENCE, ["ps", "-o", "stat=", "-p", str(pid)]
    while subprocess.run(look, check=False, capture_output=True, text=True).stdout.strip("Z+< \n"):
        assert time.monotonic() < limit


def test_a_tab_without_its_server_does_not_start(options):
    with pytest.raises(AssertionError):
        start(replace(options, server=1))


def app(tmp_path, snapshot=None):
    """The app of a tab that was in use before, if it was."""
    source = scene.Still(snapshot or scene.idle())
    return TabApp(
        source, kept=tmp_path / "kept", hang_up=lambda: None, fresh=Conversation(), home=tmp_path / "home", poll=False
    )


async def test_a_reload_finds_conversation_answer_under_way_and_draft(tmp_path):
    first = app(tmp_path)
    async with first.run_test() as pilot:
        await scene.converse(first, pilot)
        first.prompt.put("and then?")
        await pilot.pause()
    first.keep()
    second = app(tmp_path)
    async with second.run_test() as pilot:
        await pilot.pause()
        said = [message["content"] for message in second.talk.messages]
        assert said == [scene.QUESTION, scene.THINKING + scene.ANSWER] and second.prompt.text == "and then?"
        assert len(second.transcript.turns) == 2
    assert len(Sessions(tmp_path / "home" / "sessions").paths()) == 1


async def test_a_message_without_a_token_of_its_answer_comes_back_to_the_prompt(tmp_path):
    first = app(tmp_path)
    async with first.run_test() as pilot:
        await first.ask(scene.QUESTION)
        await pilot.pause()
    first.keep()
    second = app(tmp_path)
    async with second.run_test() as pilot:
        await pilot.pause()
        assert second.prompt.text == scene.QUESTION and second.talk.messages == []


async def test_only_links_to_the_web_are_opened(tmp_path, monkeypatch):
    tab, opened = app(tmp_path), []
    async with tab.run_test() as pilot:
        monkeypatch.setattr(tab._driver, "open_url", lambda url, new_tab: opened.append(url))
        for url in ("https://example.org/a", "javascript:alert(1)", "file:///etc/passwd", " JavaScript:x"):
            tab.open_url(url)
        await pilot.pause()
    assert opened == ["https://example.org/a"]


@pytest.mark.rows_by_day(2)
@pytest.mark.parametrize("width", [40, 85, 122, 150])
async def test_the_touch_bar_does_what_its_buttons_say(tmp_path, width):
    tab = app(tmp_path)
    async with tab.run_test(size=(width, 40)) as pilot:
        await scene.show(tab, pilot, scene.idle())
        for button, there in (("palette", "CommandPalette"), ("sessions", "SessionsScreen"), ("stop", "SturdyScreen")):
            tab.post_message(Touched(button))
            await pilot.pause()
            await pilot.pause()
            assert type(tab.screen).__name__ == there
        for button in ("map", "cap 25%", "nothing of ours"):
            tab.post_message(Touched(button))
            await pilot.pause()
        assert tab.screen.has_class("-swapped") and tab.source.orders == [Configure(expert_cache="25%")]


async def test_an_export_goes_to_the_browser_and_not_to_the_server_s_folder(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    tab, sent = app(tmp_path), []
    async with tab.run_test() as pilot:
        await scene.converse(tab, pilot)
        monkeypatch.setattr(tab, "deliver_text", lambda file, **how: sent.append((file.read(), how["save_filename"])))
        for suffix in ("md", "json"):
            tab.action_export(suffix)
        await pilot.pause()
    assert [name for _, name in sent] == ["moe-mlx-why-is-the-sky-blue.md", "moe-mlx-why-is-the-sky-blue.json"]
    assert scene.QUESTION in sent[0][0] and not list((tmp_path / "folder").iterdir())


def test_a_taken_port_is_one_line_before_anything_is_said(arguments, capsys):
    from moe_mlx_tui.web.server import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MoeMlxError, match=f"{port}.*another --host or --port"):
            serve(arguments("--web", "--port", str(port)))
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_what_is_printed_can_be_opened(monkeypatch):
    assert reachable("127.0.0.1") == ["localhost"] and reachable("10.0.0.2") == ["10.0.0.2"]
    monkeypatch.setattr("moe_mlx_tui.web.addresses._outward", lambda family, beyond: "192.0.2.7")
    assert reachable("0.0.0.0")[0] == "192.0.2.7" and "0.0.0.0" not in reachable("0.0.0.0")
    assert address("::1", 8421, "t") == "http://[::1]:8421/?token=t"
    (one,) = listen("127.0.0.1", 0)
    one.close()


def test_the_code_for_a_camera_is_drawn():
    pytest.importorskip("segno")
    drawn = StringIO()
    assert draw_code("http://192.0.2.7:8421/?token=abc", drawn) and len(drawn.getvalue().splitlines()) > 10
