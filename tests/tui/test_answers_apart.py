"""The app's conversation carries reasoning apart from what is said, whatever the family; older files are told apart."""

import argparse
import json
from dataclasses import replace

import pytest

from moe_mlx.commands import chat
from moe_mlx.errors import StoreCorruptError
from moe_mlx_tui.engine.engine import Engine
from moe_mlx_tui.engine.orders import Ask, from_row, to_row
from moe_mlx_tui.engine.shared_engine import SharedEngine, _Screen
from moe_mlx_tui.engine.snapshot import IDLE
from moe_mlx_tui.recording.codec import decode, encode
from moe_mlx_tui.saved.conversation import Conversation, load
from tests.scripted_model import scripted_model
from tests.tui.waiting import until

PIECES = ["<|channel|>analysis<|message|>", "Be kind.", "<|start|>assistant<|channel|>final<|message|>", "Good day!"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if '<|channel|>' in m.content %}"
    "{{ raise_exception('content holds channel tags') }}{% endif %}{{ m.thinking }}{{ m.content }}<|end|>"
    "{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    "{# <|channel|> <|message|> #}"
)


@pytest.fixture(scope="module")
def harmony(tmp_path_factory):
    folder = scripted_model(tmp_path_factory.mktemp("harmony"), PIECES, TEMPLATE)
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    words = ["--model", str(folder), "--expert-cache", "100%", "--decode", "readback", "--no-history"]
    engine = Engine(parser.parse_args(words))
    engine.start()
    until(engine, lambda s: s.phase == IDLE)
    yield engine
    engine.close()


def turn(engine, talk, text):
    """Asks as the app does, over a socket's form of the order; keeps the answer as the app does."""
    at = talk.say(text)
    order = from_row(json.loads(json.dumps(to_row(Ask(f"{id(talk)}-{at}", at, talk.wire())))))
    over = until(engine, lambda s: s.turn == order.turn and (s.receipt or s.error), lambda: engine.submit(order))
    over = decode(json.loads(json.dumps(encode(over, None))), None)
    if not over.error:
        talk.answered(over.text, over.receipt, over.reply)
    return over


def test_three_turns_saved_in_between(harmony, tmp_path):
    talk = Conversation()
    for number, text in enumerate(("hello", "hello again", "third")):
        over = turn(harmony, talk, text)
        assert (over.error, over.text) == ("", "<think>Be kind.</think>Good day!")
        path = tmp_path / f"{number}.json"
        path.write_text(talk.to_json(), encoding="utf-8")
        assert load(path) == talk and load(path).wire() == talk.wire()
        talk = load(path)
    assert talk.wire()[1] == {"role": "assistant", "content": "Good day!", "reasoning_content": "Be kind."}
    talk.versions.open(5)
    assert not turn(harmony, talk, "another version of the last").error
    path.write_text(talk.to_json(), encoding="utf-8")
    assert load(path).wire() == talk.wire()


def test_a_file_of_before_is_answered(harmony, tmp_path):
    talk = Conversation(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": "".join(PIECES)}])
    path = tmp_path / "old.json"
    path.write_text(talk.to_json(), encoding="utf-8")
    assert "reply" not in path.read_text(encoding="utf-8")
    assert not turn(harmony, load(path), "and then?").error


@pytest.mark.parametrize("reply", ["text", {"role": "user", "content": "x"}, {"role": "assistant", "content": [1]}])
def test_a_reply_that_is_none_is_refused(reply, tmp_path):
    body = json.loads(Conversation(messages=[{"role": "assistant", "content": "a"}]).to_json())
    body["messages"][0]["reply"] = reply
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(StoreCorruptError, match="reply"):
        load(path)


def test_another_screen_s_answer_is_not_seen(harmony, tmp_path):
    over = turn(harmony, Conversation(), "hello")
    shared = SharedEngine(harmony, tmp_path / "socket")
    mine = _Screen(shared, None).mine(replace(over, phase=IDLE))
    shared.close()
    assert "Be kind" not in json.dumps(encode(mine, None))
