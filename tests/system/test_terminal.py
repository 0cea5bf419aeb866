"""Streams that are closed or narrow, and text that would be more than text."""

import io
import os
import sys

import pytest

from moe_mlx.system.terminal import harmless, prepare_streams, sound


def test_a_closed_stream_is_opened_on_nothing(monkeypatch: pytest.MonkeyPatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    prepare_streams()
    opened = sys.stdin, sys.stdout, sys.stderr
    assert sys.stdin.read() == "" and print("é") is None and print("é", file=sys.stderr) is None
    for stream in opened:
        stream.close()


@pytest.mark.parametrize(("encoding", "written"), [("ascii", "é中".encode()), ("latin-1", b"\xe9?")])
def test_a_narrow_locale_ends_no_answer(monkeypatch: pytest.MonkeyPatch, encoding: str, written: bytes):
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é".encode() + b"\xff"), encoding=encoding))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding))
    prepare_streams()
    sys.stdin.read().encode()
    sys.stdout.write("é中")
    sys.stdout.flush()
    assert out.getvalue() == written


def test_text_that_a_tokenizer_takes():
    assert sound("plain é") == "plain é"
    assert sound(os.fsencode("é").decode("ascii", "surrogateescape")) == "é"
    sound("\ud800 \udcff").encode()


def test_control_characters_become_signs_each_by_itself():
    text = "a\x1b]0;title\x07b\x9b31m\x7f\r\n\tc"
    assert harmless(text) == "a␛]0;title␇b\N{REPLACEMENT CHARACTER}31m␡\n\tc"
    assert "".join(map(harmless, text)) == harmless(text)
    assert harmless("日本語 👩‍👩‍👧 שלום") == "日本語 👩‍👩‍👧 שלום"
