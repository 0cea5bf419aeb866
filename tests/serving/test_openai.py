"""OpenAI's own client against the server: chat, streams, tools, completions, responses."""

import json
import math
from collections.abc import Iterator

import openai
import pytest
from mlx_lm import load as load_whole
from mlx_lm import stream_generate

from moe_mlx.store.demo import demo_path
from tests.serving.running import Running, user

QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two digits.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [2, 5]}, "b": {"enum": [3, 4]}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


def test_chat_whole_and_streamed_are_mlx_lm_s_answer(client: openai.OpenAI):
    whole = client.chat.completions.create(model="demo", messages=[user("What is 2 plus 3?")], max_tokens=12)
    model, tokenizer = load_whole(str(demo_path()))
    prompt = tokenizer.apply_chat_template([user("What is 2 plus 3?")], add_generation_prompt=True)
    expected = "".join(piece.text for piece in stream_generate(model, tokenizer, prompt, max_tokens=12))
    assert whole.choices[0].message.content == expected
    assert whole.usage is not None and whole.usage.prompt_tokens == len(prompt)
    chunks = list(
        client.chat.completions.create(
            model="demo",
            messages=[user("What is 2 plus 3?")],
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == expected
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.moe_mlx["first_token_seconds"] > 0  # type: ignore[attr-defined]


def test_what_stops_is_left_out_and_what_stands_before_it_is_sent(client: openai.OpenAI):
    for stream in (False, True):
        for stop, kept in (
            (" Rome", "The capital of Italy is"),
            ("capit", "The "),
            (["xyz", "taly"], "The capital of I"),
        ):
            answer = client.chat.completions.create(
                model="demo", messages=[user(QUESTION)], stop=stop, stream=stream, max_tokens=12
            )
            if stream:
                text = "".join(c.choices[0].delta.content or "" for c in answer)  # type: ignore[union-attr]
            else:
                text = answer.choices[0].message.content  # type: ignore[union-attr]
                assert answer.choices[0].finish_reason == "stop"  # type: ignore[union-attr]
            assert text == kept
    unfinished = client.chat.completions.create(model="demo", messages=[user(QUESTION)], stop="Rome.!", max_tokens=12)
    assert unfinished.choices[0].message.content == ANSWER  # what looked like a stop is sent in the end


def test_several_answers_and_their_chances(client: openai.OpenAI):
    answer = client.chat.completions.create(
        model="demo", messages=[user(QUESTION)], n=3, logprobs=True, top_logprobs=4, max_tokens=12
    )
    assert [choice.message.content for choice in answer.choices] == [ANSWER] * 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == ANSWER
    for token in logprobs.content:
        assert len(token.top_logprobs) == 4
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)  # greedy
        assert sum(math.exp(other.logprob) for other in token.top_logprobs) <= 1.0001
        assert bytes(token.bytes or []).decode() == token.token


def test_a_seed_makes_the_same_answer_again_and_another_one_another(client: openai.OpenAI):
    def tell(seed: int) -> str:
        answer = client.chat.completions.create(
            model="demo", messages=[user("Tell me a story about a fox.")], temperature=1.2, seed=seed, max_tokens=40
        )
        return answer.choices[0].message.content or ""

    first = tell(7)
    assert tell(7) == first
    assert tell(8) != first
    both = client.chat.completions.create(
        model="demo", messages=[user("Tell me a story about a fox.")], temperature=1.2, seed=7, n=2, max_tokens=40
    )
    assert [choice.message.content for choice in both.choices] == [first, tell(8)]


def test_an_answer_that_keeps_to_a_schema(client: openai.OpenAI):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [3, 4]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model="demo",
        messages=[user("Who are you?")],
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}},
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert set(value) == {"name", "age"} and value["age"] in (3, 4) and len(value["name"]) <= 8


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_calls_its_tool_and_answers(client: openai.OpenAI, stream: bool):
    messages = [user("What is 2 plus 3?")]
    if stream:
        name = arguments = identity = ""
        for chunk in client.chat.completions.create(
            model="demo", messages=messages, tools=[ADD], tool_choice="required", stream=True, max_tokens=60
        ):
            for call in chunk.choices[0].delta.tool_calls or []:
                identity = call.id or identity
                name += call.function.name or ""
                arguments += call.function.arguments or ""
            reason = chunk.choices[0].finish_reason
    else:
        choice = client.chat.completions.create(
            model="demo", messages=messages, tools=[ADD], tool_choice="required", max_tokens=60
        ).choices[0]
        (made,) = choice.message.tool_calls or []
        name, arguments, identity = made.function.name, made.function.arguments, made.id
        reason = choice.finish_reason
    assert (name, reason) == ("add", "tool_calls")
    given = json.loads(arguments)
    result = str(given["a"] + given["b"])
    messages += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}],
        },
        {"role": "tool", "tool_call_id": identity, "content": result},
    ]
    last = client.chat.completions.create(model="demo", messages=messages, tools=[ADD], max_tokens=20)
    assert last.choices[0].finish_reason in ("stop", "length")
    assert last.choices[0].message.content


def test_completions_take_lists_of_texts_and_of_ids(client: openai.OpenAI):
    prompts = ["Once upon a time", "One day a small"]
    both = client.completions.create(model="demo", prompt=prompts, max_tokens=6, logprobs=2)
    each = [client.completions.create(model="demo", prompt=p, max_tokens=6).choices[0].text for p in prompts]
    assert [choice.text for choice in both.choices] == each
    logprobs = both.choices[0].logprobs
    assert logprobs is not None and "".join(logprobs.tokens or []).strip() == each[0].strip()
    assert all(len(row) == 2 for row in logprobs.top_logprobs or [])
    ids = client.completions.create(model="demo", prompt=[[5, 6, 7], [8, 9]], max_tokens=3, n=2)
    assert [choice.index for choice in ids.choices] == [0, 1, 2, 3]
    assert ids.usage is not None and ids.usage.prompt_tokens == 5
    streamed = list(client.completions.create(model="demo", prompt=prompts[0], max_tokens=6, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == each[0]


def test_responses_whole_and_streamed(client: openai.OpenAI):
    whole = client.responses.create(model="demo", input=QUESTION, max_output_tokens=12)
    assert (whole.output_text, whole.status) == (ANSWER, "completed")
    assert whole.usage is not None and whole.usage.input_tokens == 12
    with client.responses.stream(model="demo", input=[user(QUESTION)], max_output_tokens=12) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == ANSWER
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    short = client.responses.create(model="demo", input=QUESTION, max_output_tokens=2)
    assert short.status == "incomplete" and short.incomplete_details is not None


def test_responses_call_tools_and_take_their_results(client: openai.OpenAI):
    tool = {"type": "function", "strict": False, **ADD["function"]}
    asked = [user("What is 2 plus 3?")]
    with client.responses.stream(
        model="demo", input=asked, tools=[tool], tool_choice="required", max_output_tokens=60
    ) as stream:
        for _ in stream:
            pass
        (call,) = stream.get_final_response().output
    assert call.type == "function_call" and json.loads(call.arguments)["a"] in (2, 5)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    again = client.responses.create(
        model="demo", input=[*asked, call.model_dump(exclude_none=True), result], tools=[tool], max_output_tokens=12
    )
    assert again.output_text
    with pytest.raises(openai.BadRequestError, match="keeps no responses"):
        client.responses.create(model="demo", input="go on", previous_response_id="resp_1")


def test_errors_are_the_client_s_own_kinds(client: openai.OpenAI):
    with pytest.raises(openai.NotFoundError, match="is not served here: demo") as missing:
        client.chat.completions.create(model="gpt-9", messages=[user("hi")])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="no embeddings"):
        client.embeddings.create(model="demo", input="a")
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="demo", messages=[user("word " * 3000)])
    assert long.value.code == "context_length_exceeded"
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
