"""The line chat loses nothing: unexpected errors, interrupts, /new and /regenerate."""

import argparse
from types import SimpleNamespace

import pytest

from moe_mlx.commands import chat
from moe_mlx.errors import UsageError
from moe_mlx.vlm.pictures import Picture


class Session:
    """Answers with the number of the answer; does what it is told first."""

    def __init__(self):
        self.runtime = SimpleNamespace(
            warmup=SimpleNamespace(pending=False), config={}, warm_while_idle=lambda *a: None
        )
        self.keep_prompt = self.close = lambda: None
        self.machines = list
        self.heard, self.last, self.tricks = [], None, {}

    def encode(self, messages):
        self.heard.append([message["content"] for message in messages])
        return [1]

    def answer(self, prompt, stop):
        if (trick := self.tricks.get(len(self.heard))) is not None:
            raise trick
        said = f"answer {len(self.heard)}"
        message = {"role": "assistant", "content": said, "reasoning_content": ""}
        self.last = SimpleNamespace(message=message, prompt_tokens=1, tokens=(1,), refilled="")
        yield SimpleNamespace(text=said, token=1)

    def forget(self):
        pass


@pytest.fixture
def talk(monkeypatch):
    """Feeds lines to the line mode; returns the session and how it ended."""
    session = Session()
    monkeypatch.setattr(chat, "open_session", lambda args: session)
    watch = SimpleNamespace(remarks=lambda tokens: [])
    monkeypatch.setattr("moe_mlx.conversation.context.context_watch", lambda session: watch)
    monkeypatch.setattr("moe_mlx.commands.generate.describe", lambda session, answer: "[...]")

    def run(*lines, tricks=(), terminal=True):
        session.tricks = dict(tricks)
        waiting = [*lines, "/quit"]
        monkeypatch.setattr(chat.sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
        monkeypatch.setattr(chat, "_next_line", lambda session, interactive: waiting.pop(0))
        chat.line_mode(argparse.Namespace(system_prompt=None, parallel=None))
        return session.heard

    return run


def test_an_unexpected_error_keeps_the_conversation(talk, capsys):
    heard = talk("one", "two", "three", tricks=[(2, ValueError("strange"))])
    assert heard[-1] == ["one", "answer 1", "three"]
    assert "ValueError: strange" in capsys.readouterr().err


def test_a_second_interrupt_ends_an_answer_and_no_conversation(talk):
    assert talk("one", "two", "three", tricks=[(2, KeyboardInterrupt())])[-1] == ["one", "answer 1", "three"]
    with pytest.raises(KeyboardInterrupt):
        talk("one", tricks=[(4, KeyboardInterrupt())], terminal=False)


def test_undo_brings_back_what_new_and_regenerate_took(talk, capsys):
    heard = talk("one", "/regenerate", "/undo", "two", "/new", "three", "/undo", "four", "/undo", "/undo")
    assert heard[1] == ["one"] and heard[2] == ["one", "answer 1", "two"]
    assert heard[3] == ["three"] and heard[4] == ["one", "answer 1", "two", "answer 3", "four"]
    assert capsys.readouterr().err.count("nothing to undo") == 2


def test_a_failed_second_answer_leaves_the_first(talk):
    heard = talk("one", "/regenerate", "two", tricks=[(2, OSError("gone"))])
    assert heard[-1] == ["one", "answer 1", "two"]


@pytest.mark.parametrize("failure", [OSError("gone"), UsageError("too long"), KeyboardInterrupt()])
def test_a_picture_waits_until_it_has_been_answered(talk, monkeypatch, capsys, failure):
    image = SimpleNamespace(size=(4, 3))
    monkeypatch.setattr("moe_mlx.vlm.pictures.read_picture", lambda path: Picture(path, path, image))
    heard = talk("/image a.png", "one", "two", "three", tricks=[(1, failure)])
    shown = [
        [part for part in said[-1] if part["type"] == "picture"] if isinstance(said[-1], list) else [] for said in heard
    ]
    assert [len(pictures) for pictures in shown] == [1, 1, 0]
    assert heard[2][0] == heard[1][0] and heard[2][1:] == ["answer 2", "three"]


def test_waiting_pictures_can_be_left_out(talk, monkeypatch, capsys):
    image = SimpleNamespace(size=(4, 3))
    monkeypatch.setattr("moe_mlx.vlm.pictures.read_picture", lambda path: Picture(path, path, image))
    assert talk("/image a.png", "one", "/image", "two", tricks=[(1, UsageError("no pictures here"))])[-1] == ["two"]
    told = capsys.readouterr().err
    assert "a.png still waits" in told and "[1 pictures left out]" in told
