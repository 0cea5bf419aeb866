"""An answer goes into the next prompt with its content, reasoning and calls apart, whatever markers its family has."""

import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.chat_templates import muse_spark

import moe_mlx
from moe_mlx.commands.chat import Conversation
from moe_mlx.conversation.channels import Channels
from moe_mlx.conversation.message import apart
from moe_mlx.conversation.sampling import Sampling
from moe_mlx.conversation.session import Session
from moe_mlx.errors import UsageError
from tests.scripted_model import scripted_model

TOOLS = '{"name": "add", "arguments": {"a": 1}}'
#: What a model says, the marker that its template refuses in content, tokens it knows besides.
FAMILIES: dict[str, tuple[list[str], str, list[str]]] = {
    "qwen": (["<think>", "Be kind.", "</think>", "Good day!"], "<think>", []),
    "longcat": (["<longcat_think>", "Be kind.", "</longcat_think>", "Good day!"], "longcat", []),
    "gemma4": (["<|channel>", "thought", "Be kind.", "<channel|>", "Good day!"], "channel", []),
    "kimi_k3": (
        [
            "<|open|>think<|sep|>",
            "Be kind.",
            "<|close|>think<|sep|>",
            "<|open|>response<|sep|>",
            "Good day!",
            "<|close|>response<|sep|>",
        ],
        "<|",
        ["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"],
    ),
    "muse_spark": (
        ["to=self<|message|>", "Be kind.", "<|eom|>", "<|start|>assistant ", "to=user<|message|>", "Good day!"],
        "<|",
        [],
    ),
    "gpt_oss": (
        [
            "<|channel|>analysis<|message|>",
            "Be kind.",
            "<|fin|>",
            "<|start|>assistant<|channel|>final<|message|>",
            "Good day!",
        ],
        "<|channel|>",
        [],
    ),
    "gpt_oss in small tokens": (
        [
            "<|channel|>",
            "analysis",
            "<|message|>",
            "Be kind.",
            "<|start|>",
            "assistant",
            "<|channel|>final",
            "<|message|>Good",
            " day!",
        ],
        "<|channel|>",
        [],
    ),
}
HARMONY = "gpt_oss"


def template(refused: str, *, harmony: bool = False) -> str:
    """Returns a template that takes no answer whose content holds a marker, as gpt-oss's."""
    names = "{# <|channel|> <|message|> #}" if harmony else ""
    return (
        names + "{% for m in messages %}{% if m.role == 'assistant' %}{% if '" + refused + "' in m.content %}"
        "{{ raise_exception('content holds markers') }}{% endif %}[{{ m.reasoning_content or m.thinking }}]"
        "{{ m.content }}<|end|>{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )


def loaded(family: str, folder: Path) -> Session:
    pieces, refused, also = FAMILIES[family]
    made = scripted_model(folder, pieces, template(refused, harmony=family.startswith(HARMONY)), also=also)
    model, tokenizer = moe_mlx.load(made, expert_cache="100%", decode="readback", say=lambda line: None)
    if family == "muse_spark":  # which its own model file tells mlx-lm
        tokenizer._response_format = muse_spark.RESPONSE_FORMAT
    return Session(model, tokenizer, Sampling(max_tokens=20))


@pytest.mark.parametrize("family", FAMILIES)
def test_three_turns_are_answered(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    session = loaded(family, tmp_path / "m")
    talk = Conversation(session, None)
    for line in ("hello", "hello again", "third"):
        talk.turn(line)
        answer = talk.messages[-1]
        assert answer["role"] == "assistant", capsys.readouterr().err
        assert answer["content"].strip() == "Good day!"
        assert answer["reasoning_content"].replace("<|fin|>", "").strip() == "Be kind."
    prompt = session.tokenizer.decode(session.encode(talk.messages))
    assert prompt.count("[Be kind.") == 3 and prompt.count("Good day!") == 3
    told = apart(session.tokenizer, {"role": "assistant", "content": "".join(FAMILIES[family][0])})
    assert told == talk.messages[-1]  # as an older file of the app has it


def test_reasoning_that_the_prompt_has_opened_is_reasoning(tmp_path: Path):
    made = scripted_model(
        tmp_path / "m",
        ["Be kind.", "</think>", "Good day!"],
        template("</think>").replace("<|assistant|>", "<think><|assistant|>"),
        also=["<think>"],
    )
    model, tokenizer = moe_mlx.load(made, expert_cache="100%", decode="readback", say=lambda line: None)
    talk = Conversation(Session(model, tokenizer, Sampling(max_tokens=20)), None)
    talk.turn("hello")
    talk.turn("again")
    assert talk.messages[-1] == {"role": "assistant", "content": "Good day!", "reasoning_content": "Be kind."}
    assert apart(tokenizer, {"role": "assistant", "content": "Be kind.</think>Good day!"}) == talk.messages[-1]


REFUSES_CALLS = (
    "{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('a call without its result') }}{% endif %}"
    "<|user|>{{ m.content }}{% endfor %}{# <tool_call> tool_call.name #}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_call_stands_apart_and_is_text_where_the_template_takes_none(refuses: bool, tmp_path: Path):
    chat = (
        REFUSES_CALLS if refuses else REFUSES_CALLS.replace("raise_exception('a call without its result')", "'[call]'")
    )
    made = scripted_model(tmp_path / "m", ["<tool_call>", TOOLS, "</tool_call>"], chat)
    model, tokenizer = moe_mlx.load(made, expert_cache="100%", decode="readback", say=lambda line: None)
    talk = Conversation(Session(model, tokenizer, Sampling(max_tokens=20)), None)
    for line in ("hello", "again"):
        talk.turn(line)
        (call,) = talk.messages[-1]["tool_calls"]
        assert (call["function"], talk.messages[-1]["content"]) == ({"name": "add", "arguments": {"a": 1}}, "")
    prompt = tokenizer.decode(talk.session.encode(talk.messages))
    assert prompt.count(TOOLS if refuses else "[call]") == 2


def test_a_template_that_refuses_keeps_the_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chat = "{% if messages|length > 1 %}{{ raise_exception('one message is enough') }}{% endif %}<|assistant|>"
    made = scripted_model(tmp_path / "m", ["Good day!"], chat)
    model, tokenizer = moe_mlx.load(made, expert_cache="100%", decode="readback", say=lambda line: None)
    talk = Conversation(Session(model, tokenizer, Sampling(max_tokens=20)), None)
    talk.turn("hello")
    kept = list(talk.messages)
    talk.turn("again")
    assert talk.messages == kept
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "one message is enough" in line
    with pytest.raises(UsageError):
        talk.session.encode([*kept, {"role": "user", "content": "more"}])


HARMONY_ANSWER = (
    "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary to=functions.add "
    '<|constrain|>json<|message|>{"a": 1}<|call|><|start|>assistant<|channel|>final<|message|>Done <|en'
)


def in_kinds(pieces: list[str]) -> dict[str, str]:
    splitter, kinds = Channels(), dict.fromkeys(("normal", "reasoning", "tool"), "")
    for kind, text in [part for piece in pieces for part in splitter.split(piece)] + splitter.flush():
        kinds[kind] += text
    return kinds


@settings(deadline=None)
@given(st.lists(st.integers(0, len(HARMONY_ANSWER)), max_size=12))
def test_channels_are_told_apart_however_the_text_is_cut(cuts: list[int]):
    places = [0, *sorted(cuts), len(HARMONY_ANSWER)]
    pieces = [HARMONY_ANSWER[a:b] for a, b in pairwise(places)]
    found = in_kinds(pieces)
    assert (found["reasoning"], found["normal"]) == ("Think.", "Done <|en")
    assert json.loads(found["tool"]) == {"name": "add", "arguments": {"a": 1}}


@pytest.mark.parametrize(
    ("said", "kinds"),
    [
        ("plain words", {"normal": "plain words"}),
        ("tomorrow", {"normal": "tomorrow"}),
        ("to", {"normal": "to"}),
        ("<b>no channel</b>", {"normal": "<b>no channel</b>"}),
        (" to=functions.f<|channel|>commentary json<|message|>{}", {"tool": '{"name": "f", "arguments": {}}'}),
        ("<|channel|>final<|message|>a<|channel|>b", {"normal": "a"}),
        ("<|channel|>analysis", {}),
        ("", {}),
    ],
)
def test_what_has_no_header_is_plain_text(said: str, kinds: dict[str, str]):
    for pieces in ([said], list(said)):
        assert {kind: text for kind, text in in_kinds(pieces).items() if text} == kinds


def test_an_answer_without_markers_is_all_content(tmp_path: Path):
    for family, (harmony, text) in product(("qwen", HARMONY), [(False, "Good day!"), (True, "a <b> c")]):
        session = loaded(family, tmp_path / f"{family}{harmony}")
        told: dict[str, Any] = apart(session.tokenizer, {"role": "assistant", "content": text})
        assert (told["content"], told["reasoning_content"]) == (text, "")
