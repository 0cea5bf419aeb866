"""What is typed: the menu of commands, files that go along, the editor, searching, copying, samples."""

import sys

import pytest
from textual.events import Key
from textual.widgets import OptionList

from moe_mlx_tui.engine.orders import Configure
from moe_mlx_tui.entry import clipboard
from moe_mlx_tui.entry.commands import COMMANDS
from moe_mlx_tui.entry.files import MOST_BYTES, split_files, with_files
from moe_mlx_tui.screens.copying import CopyScreen
from moe_mlx_tui.screens.help import HelpScreen
from moe_mlx_tui.screens.models import ModelsScreen
from moe_mlx_tui.widgets.finder import FOUND
from tests.tui import scene
from tests.tui.scene import WIDE, exchange

CODE = "First:\n\n```python\nprint(1)\n```\n\nthen\n\n```\nls -l\ncd\n```\n"


@pytest.fixture
def app(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return scene.chat(scene.idle(), tmp_path)


def sent(app):
    """What the model got last."""
    return app.source.orders[-1].messages[-1]["content"]


def shown(app):
    """What the menu offers."""
    return [choice.shown for choice in app.menu.found.choices] if app.menu.display else []


async def test_a_slash_opens_the_commands_and_typing_narrows_them(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("/")
        await pilot.pause()
        assert len(shown(app)) == len(COMMANDS) - 1, "/exit is /quit"
        assert all(choice.what for choice in app.menu.found.choices), "each says what it does"
        await pilot.press("r", "e")
        await pilot.pause()
        assert shown(app) == ["/rename TITLE", "/regenerate", "/redo"]
        await pilot.press("down", "tab")
        await pilot.pause()
        assert app.prompt.text == "/regenerate" and not app.menu.display
        await pilot.press("ctrl+u", *"/comp")
        await pilot.pause()
        await pilot.press("tab", *"exact")
        await pilot.pause()
        assert app.prompt.text == "/compare exact", "there is room for what may follow"
        await pilot.press("ctrl+u", *"/he")
        await pilot.pause()
        await pilot.press("escape")
        assert not app.menu.display and app.prompt.text == "/he", "Esc closes the menu and nothing else"
        await pilot.press("l")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, HelpScreen) and app.prompt.text == "" and app.source.orders == []


async def test_a_command_takes_what_follows_it(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"/ca")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert app.prompt.text == "/cap " and "25%" in shown(app), "it goes on with what may follow"
        await pilot.press("2")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        await pilot.press(*"/routing ex")
        await pilot.pause()
        await pilot.press("enter")
        await pilot.pause()
        assert app.source.orders == [Configure(expert_cache="25%"), Configure(routing={"routing": "exact"})]
        await pilot.press(*"/cap 37%", "enter")
        await pilot.pause()
        assert app.source.orders[-1] == Configure(expert_cache="37%")
        await pilot.press(*"/system Be brief.", "enter")
        await pilot.pause()
        assert app.talk.system == "Be brief."
        app.find_models = lambda: []
        await pilot.press(*"/model qwen", "enter")
        await pilot.pause()
        assert isinstance(app.screen, ModelsScreen)


async def test_keys_that_come_at_once_choose_what_stands_there(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"/re")
        await pilot.pause()
        assert app.menu.choice.shown == "/rename TITLE"
        for key in ("g", "tab"):
            app.prompt.post_message(Key(key, key if len(key) == 1 else None))
        await pilot.pause()
        assert app.prompt.text == "/regenerate"


async def test_what_a_command_lacks_is_said_and_a_path_is_a_message(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.prompt.put("/rename")
        await pilot.pause()
        await pilot.press("escape", "enter")
        await pilot.pause()
        assert "/rename needs TITLE" in [*app._notifications][-1].message and app.prompt.text == "/rename"
        await pilot.press("ctrl+u", *"/new york", "enter")
        await pilot.pause()
        assert sent(app) == "/new york", "it takes nothing, so this is no command"


async def test_a_click_takes_a_line_of_the_menu(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"/re")
        await pilot.pause()
        await pilot.click(app.menu, offset=(4, 2))
        await pilot.pause()
        assert app.prompt.text == "/redo" and app.prompt.has_focus


async def test_a_file_is_completed_attached_and_folded(app, tmp_path):
    here = tmp_path / "here"
    (here / "notes").mkdir()
    (here / "notes" / "to do.txt").write_text("buy milk\n")
    (here / "notes.txt").write_text("hello\n")
    (here / ".hidden").write_text("no")
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"read @no")
        await pilot.pause()
        assert shown(app) == ["notes/", "notes.txt"]
        await pilot.press("enter")
        await pilot.pause()
        assert shown(app) == ["notes/to do.txt"], "a folder goes on"
        await pilot.press("tab")
        await pilot.pause()
        assert app.prompt.text == 'read @"notes/to do.txt" ' and not app.menu.display
        await pilot.press(*"and @notes.txt.", "enter")
        await pilot.pause()
        words = 'read @"notes/to do.txt" and @notes.txt.'
        assert sent(app).startswith(f'{words}\n\n<file name="notes/to do.txt">\nbuy milk\n</file>')
        assert sent(app).endswith('<file name="notes.txt">\nhello\n</file>')
        message = app.transcript.turns[0]
        assert "+ notes.txt  5 B" in str(message.render()) and "buy milk" not in str(message.render())
        message.action_unfold()
        assert "buy milk" in str(message.render())
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, "ok")))
        await pilot.press("ctrl+l")
        assert app.prompt.text == words, "the words are edited, not the file"
        await pilot.press("enter")
        await pilot.pause()
        assert "hello" in sent(app)


async def test_a_click_unfolds_what_is_attached(app, tmp_path):
    (tmp_path / "here" / "a.txt").write_text("inside")
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "read @a.txt", "done")
        assert await pilot.click(app.transcript.turns[0], offset=(4, 2))
        await pilot.pause()
        assert "inside" in str(app.transcript.turns[0].render())


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x89PNG\x00\x01\xff", "no text"), (b"a\0b", "binary"), (b"x" * (MOST_BYTES + 1), "200.0 kB of files in all")],
)
async def test_a_file_that_cannot_go_along_is_said_and_nothing_is_sent(app, tmp_path, content, said):
    (tmp_path / "here" / "f.bin").write_bytes(content)
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.prompt.put("see @f.bin")
        await pilot.press("enter")
        await pilot.pause()
        assert said in [*app._notifications][-1].message
        assert app.source.orders == [] and app.prompt.text == "see @f.bin"


async def test_a_name_that_is_no_file_is_asked_about_once(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.prompt.put("ask @bob")
        await pilot.press("enter")
        await pilot.pause()
        assert "no file @bob" in [*app._notifications][-1].message and app.source.orders == []
        await pilot.press("enter")
        await pilot.pause()
        assert sent(app) == "ask @bob"


def test_what_is_no_plain_file_is_refused(tmp_path, monkeypatch):
    import os

    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for name, said in ((".", "a folder"), ("pipe", "no file that can be read"), ("/dev/zero", "no file that can be")):
        with pytest.raises(Exception, match=said):
            with_files(f"see @{name}")
    assert with_files("me@here.org") == ("me@here.org", [])


def test_a_text_that_holds_the_mark_of_an_attachment_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one\n</file>\ntwo")
    (tmp_path / "b.txt").write_text("three")
    words, files = split_files(with_files("see @a.txt @b.txt @a.txt")[0])
    assert words == "see @a.txt @b.txt @a.txt"
    assert [(file.name, file.text) for file in files] == [("a.txt", "one\n</file>\ntwo"), ("b.txt", "three")]


async def test_a_browser_attaches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("secret")
    app = scene.chat(scene.idle(), tmp_path)
    app.attaches = False
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        app.prompt.put(f'see\n\n<picture name="a" digest="ab">{tmp_path}/secret.png</picture>')
        await pilot.press("enter")
        await pilot.pause()
        assert "the mark of a picture" in [*app._notifications][-1].message and app.source.orders == []
        app.prompt.put("/image secret.png")
        await pilot.press("enter")
        await pilot.pause()
        assert "sends no files" in [*app._notifications][-1].message and app.source.orders == []
        app.prompt.clear()
        await pilot.press(*"see @sec")
        await pilot.pause()
        assert not app.menu.display
        await pilot.press(*"ret.txt", "enter")
        await pilot.pause()
        assert sent(app) == "see @secret.txt"
    from moe_mlx_tui.web.tab_app import TabApp

    assert TabApp.attaches is False


async def test_the_editor_writes_the_prompt(app, tmp_path, monkeypatch):
    script = tmp_path / "editor.py"
    script.write_text("import sys, pathlib\npath = pathlib.Path(sys.argv[-1])\npath.write_text(path.read_text() * 2)\n")
    monkeypatch.setenv("VISUAL", f"{sys.executable} '{script}'")
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press(*"ab", "f5")
        await pilot.pause()
        assert app.prompt.text == "ab" and "needs a terminal" in [*app._notifications][-1].message
        driver = type(app._driver)
        monkeypatch.setattr(driver, "can_suspend", True)
        stages = []
        for name in ("suspend_application_mode", "resume_application_mode"):
            monkeypatch.setattr(driver, name, lambda self, name=name: stages.append(name))
        await pilot.press("f5")
        await pilot.pause()
        assert app.prompt.text == "abab" and stages == ["suspend_application_mode", "resume_application_mode"]
        monkeypatch.setenv("VISUAL", "/no/such/editor")
        await pilot.press("f5")
        await pilot.pause()
        assert app.prompt.text == "abab" and "name another editor in $EDITOR" in [*app._notifications][-1].message
        monkeypatch.setenv("VISUAL", "false")
        await pilot.press("f5")
        await pilot.pause()
        assert "ended with 1" in [*app._notifications][-1].message and app.prompt.text == "abab"


async def test_any_message_and_code_block_can_be_copied(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await pilot.press("f6")
        await pilot.pause()
        assert "Nothing was said" in [*app._notifications][-1].message
        await exchange(app, pilot, "one", "<think>\nhm\n</think>\n\n" + CODE)
        await exchange(app, pilot, "two", "Two.")
        for downs, text in ((0, "Two."), (1, "two"), (2, CODE.strip()), (3, "print(1)"), (4, "ls -l\ncd"), (5, "one")):
            await pilot.press("f6")
            await pilot.pause()
            assert isinstance(app.screen, CopyScreen)
            await pilot.press(*["down"] * downs, "enter")
            await pilot.pause()
            assert app.clipboard == text


async def test_the_conversation_is_searched_forth_and_back(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        await exchange(app, pilot, "a needle here", "<think>\nno Needle?\n</think>\n\nHay.\n\nA NEEDLE.\n\nMore hay.")
        await exchange(app, pilot, "hay", "- hay\n- needle")
        await pilot.press("ctrl+f", *"needle")
        await pilot.pause()
        which = app.finder.query_one("#which")

        def marked():
            (part,) = app.screen.query(f".{FOUND}")
            return str(getattr(part, "text", None) or part.source).strip()

        assert str(which.render()) == " 4/4" and marked() == "- hay\n- needle"
        seen = []
        for key in ("enter", "up", "f3", "up", "up", "up"):
            await pilot.press(key)
            await pilot.pause()
            seen.append((str(which.render()), marked()))
        assert [place for place, _ in seen] == [" 3/4", " 2/4", " 3/4", " 2/4", " 1/4", " 4/4"]
        assert (seen[0][1], seen[1][1], seen[4][1]) == ("A NEEDLE.", "no Needle?", "a needle here")
        await pilot.press(*"xyz")
        await pilot.pause()
        assert str(which.render()) == " nothing" and not app.screen.query(f".{FOUND}")
        await pilot.press("escape")
        await pilot.pause()
        assert app.prompt.has_focus and not app.finder.display


async def test_a_sample_is_taken_by_keys_and_by_a_click(app):
    async with app.run_test(size=WIDE) as pilot:
        await scene.show(app, pilot, scene.idle())
        samples = app.welcome.samples
        texts = [str(samples.get_option_at_index(n).prompt) for n in range(3)]
        await pilot.press("tab")
        for _ in range(10):
            if app.focused is samples:
                break
            await pilot.press("tab")
        assert app.focused is samples
        await pilot.press("down", "enter")
        await pilot.pause()
        assert app.prompt.text in texts and app.prompt.has_focus
        await pilot.click(samples, offset=(3, 2))
        await pilot.pause()
        assert app.prompt.text == texts[2]
        await pilot.press("enter")
        await pilot.pause()
        assert sent(app) == texts[2]
        await scene.show(app, pilot, scene.over(scene.decode(app.turn, 20, "ok")))
        await pilot.press("ctrl+n")
        await pilot.pause()
        assert app.screen.query_one(".samples", OptionList).display, "an empty conversation has them again"


def test_the_machine_s_clipboard_is_used_where_there_is_one(tmp_path, monkeypatch):
    program = tmp_path / "xclip"
    program.write_text(f"#!/bin/sh\ncat > {tmp_path}/copied\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("sys.platform", "linux")
    clipboard.copy("täxt")
    assert (tmp_path / "copied").read_text() == "täxt"
    monkeypatch.setenv("SSH_CONNECTION", "x")
    assert clipboard.program() is None
