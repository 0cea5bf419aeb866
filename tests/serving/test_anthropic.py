"""Anthropic's own client against the server: messages, their events, tools, counting."""

from collections.abc import Iterator

import anthropic
import pytest

from tests.serving.running import Running, user

QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."
TOOL = {
    "name": "add",
    "description": "Adds two digits.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"enum": [2, 5]}, "b": {"enum": [3, 4]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_a_message_whole_and_streamed(client: anthropic.Anthropic):
    whole = client.messages.create(model="demo", max_tokens=12, messages=[user(QUESTION)])
    (block,) = whole.content
    assert block.type == "text" and block.text == ANSWER
    assert whole.stop_reason == "end_turn"
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == 12
    with client.messages.stream(model="demo", max_tokens=12, messages=[user(QUESTION)]) as stream:
        assert "".join(stream.text_stream) == ANSWER
        last = stream.get_final_message()
    assert last.stop_reason == "end_turn" and last.usage.output_tokens == whole.usage.output_tokens


def test_events_come_in_anthropic_s_order(client: anthropic.Anthropic):
    kinds = [
        event.type
        for event in client.messages.create(model="demo", max_tokens=4, messages=[user(QUESTION)], stream=True)
    ]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_how_an_answer_ends(client: anthropic.Anthropic):
    short = client.messages.create(model="demo", max_tokens=2, messages=[user(QUESTION)])
    assert short.stop_reason == "max_tokens"
    stopped = client.messages.create(model="demo", max_tokens=12, messages=[user(QUESTION)], stop_sequences=["Italy"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Italy")
    assert stopped.content[0].text == "The capital of "  # type: ignore[union-attr]


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_calls_its_tool_and_answers(client: anthropic.Anthropic, stream: bool):
    asked = {
        "model": "demo",
        "max_tokens": 60,
        "messages": [user("What is 2 plus 3?")],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
    }
    if stream:
        with client.messages.stream(**asked) as events:  # type: ignore[arg-type]
            first = events.get_final_message()
    else:
        first = client.messages.create(**asked)  # type: ignore[call-overload]
    call = first.content[-1]
    assert first.stop_reason == "tool_use" and call.type == "tool_use" and call.name == "add"
    result = str(call.input["a"] + call.input["b"])
    messages = [
        user("What is 2 plus 3?"),
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": result}]},
    ]
    last = client.messages.create(model="demo", max_tokens=20, messages=messages, tools=[TOOL])  # type: ignore[arg-type]
    assert last.content[0].type == "text" and last.content[0].text


def test_tokens_are_counted_as_the_prompt_has_them(client: anthropic.Anthropic):
    asked = {"model": "demo", "system": "Be kind.", "messages": [user(QUESTION)], "tools": [TOOL]}
    count = client.messages.count_tokens(**asked).input_tokens  # type: ignore[arg-type]
    usage = client.messages.create(max_tokens=1, **asked).usage  # type: ignore[call-overload]
    assert count == usage.input_tokens + usage.cache_read_input_tokens


def test_errors_are_anthropic_s(client: anthropic.Anthropic):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude-9", max_tokens=5, messages=[user("hi")])
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="demo", max_tokens=0, messages=[user("hi")])
    assert caught.value.body["type"] == "error" and "max_tokens" in caught.value.body["error"]["message"]  # type: ignore[index,call-overload]
    image = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1:1/a.png"}}
    with pytest.raises(anthropic.BadRequestError, match="nothing is fetched"):
        client.messages.create(model="demo", max_tokens=5, messages=[{"role": "user", "content": [image]}])  # type: ignore[typeddict-item,list-item]


def test_tools_of_anthropic_s_own_servers_are_left_out_and_that_is_said(client: anthropic.Anthropic):
    answer = client.messages.with_raw_response.create(
        model="demo",
        max_tokens=5,
        messages=[user("hi")],
        tools=[{"type": "web_search_20250305", "name": "web_search"}],
    )
    assert answer.headers["x-moe-mlx-left-out"] == "web_search"
