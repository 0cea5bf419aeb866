"""From tokens to text, reasoning and calls, whatever pieces they come in."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlx_lm import load as load_whole
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tool_parsers import json_tools

from moe_mlx.conversation.answer_text import AnswerText
from moe_mlx.conversation.channels import NORMAL
from moe_mlx.conversation.text_reader import TextReader
from moe_mlx.conversation.tool_format import MARKERS, write_tools
from moe_mlx.serving.chat_fields import Part
from moe_mlx.store.demo import demo_path

CALL = '{"name": "add", "arguments": {"a": 1, "b": [2]}}'


@pytest.fixture(scope="module")
def plain() -> TokenizerWrapper:
    return load_whole(str(demo_path()), lazy=True)[1]


@pytest.fixture(scope="module")
def native(plain: TokenizerWrapper) -> TokenizerWrapper:
    """The demo's tokenizer as one of a model that calls tools by itself."""
    return TokenizerWrapper(
        plain._tokenizer,
        type(plain._detokenizer),
        plain.eos_token_ids,
        tool_call_start=json_tools.tool_call_start,
        tool_call_end=json_tools.tool_call_end,
        tool_parser=json_tools.parse_tool_call,
    )


def read(tokenizer: TokenizerWrapper, text: str, *, tools: bool = True, stops: tuple[str, ...] = ()) -> AnswerText:
    reader = TextReader(tokenizer, stops, NORMAL, markers=MARKERS, tools=tools)
    answer = AnswerText(tokenizer, ())
    for token in tokenizer.encode(text):
        answer.take(reader.take(token))
        if reader.stop_sequence is not None:
            break
    answer.take(reader.finish())
    answer.finish()
    return answer


@pytest.mark.parametrize("kind", ["plain", "native"])
def test_calls_are_told_from_the_text_around_them(kind: str, request: pytest.FixtureRequest):
    tokenizer = request.getfixturevalue(kind)
    text = f"Hello {MARKERS[0]}{CALL}{MARKERS[1]}{MARKERS[0]}{CALL}{MARKERS[1]} bye"
    answer = read(tokenizer, text)
    assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == [("add", {"a": 1, "b": [2]})] * 2
    assert answer.text == "Hello  bye"


@pytest.mark.parametrize("kind", ["plain", "native"])
@pytest.mark.parametrize(
    "text",
    [
        f"Hello {MARKERS[0]}{CALL}",
        f"a {MARKERS[0]}no call{MARKERS[1]} b",
        f"a {MARKERS[0]}[1]{MARKERS[1]}",
        "a <tool_ca",
    ],
)
def test_what_is_no_call_is_text_and_nothing_is_lost(kind: str, text: str, request: pytest.FixtureRequest):
    answer = read(request.getfixturevalue(kind), text)
    if answer.calls:  # a call cut short at its very end is whole enough
        assert text.endswith(CALL)
    else:
        assert answer.text == text


@pytest.mark.parametrize("kind", ["plain", "native"])
def test_without_tools_markers_are_text(kind: str, request: pytest.FixtureRequest):
    text = f"a {MARKERS[0]}{CALL}{MARKERS[1]} b"
    assert read(request.getfixturevalue(kind), text, tools=False).text == text


@example("aba", ["b", "aba"])  # one is complete before the other, though it begins after it
@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("ab é漢🙂 "), max_size=20), st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3))
def test_a_stop_cuts_where_it_begins_and_else_nothing_is_lost(
    tokenizer_of: dict[str, Any], text: str, stops: list[str]
):
    tokenizer = tokenizer_of["demo"]
    whole = read(tokenizer, text).text
    places = [(place + len(stop), place) for stop in stops if (place := whole.find(stop)) >= 0]
    assert read(tokenizer, text, stops=tuple(stops)).text == (whole[: min(places)[1]] if places else whole)


@pytest.fixture(scope="module")
def tokenizer_of(plain: TokenizerWrapper) -> dict[str, Any]:
    return {"demo": plain}


def test_a_template_without_tools_gets_them_written():
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "7"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    written = write_tools(messages, [tool])
    assert [message["role"] for message in written] == ["system", "user", "assistant", "user"]
    assert '"name": "f"' in written[0]["content"] and written[2]["content"].startswith(MARKERS[0])
    assert "7" in written[3]["content"]


def test_a_picture_in_a_part_of_text_is_not_dropped_without_a_word():
    with pytest.raises(ValueError, match="a part of its own"):
        Part(type="text", text="What?", image_url="data:image/png;base64,AAAA")
    assert Part(type="text", text="What?", image_url=None).plain == {"type": "text", "text": "What?"}
