"""Bodies that no honest client sends, and the codes that answer them."""

import json
from typing import Any

from tests.serving.running import user

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = {"messages": [user("hi")]}
HUGE = 10**400


def _chat(**more: Any) -> bytes:
    return json.dumps({**HI, **more}).encode()


def _raw(text: str) -> bytes:
    return ('{"messages": [{"role": "user", "content": "hi"}], ' + text + "}").encode()


def _message(**more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "hi", **more}]}).encode()


#: Name: (path, body, codes it may be answered by).
ROWS: dict[str, tuple[str, bytes, tuple[int, ...]]] = {}


def _add(name: str, body: bytes, *codes: int, path: str = CHAT) -> None:
    assert name not in ROWS, name
    ROWS[name] = (path, body, codes or (400,))


for wrong in (5, [5], [None], [""], "", {"a": 1}, True, ["x" * 2000], ["a"] * 17):
    _add(f"stop {str(wrong)[:20]}", _chat(stop=wrong))
_add("stop a lone surrogate", _raw('"stop": "\\ud800"'))
_add("content a lone surrogate", b'{"messages": [{"role": "user", "content": "a\\udfffb"}]}')
_add("a lone surrogate in a tool", _raw('"tools": [{"type": "function", "function": {"name": "\\ud834"}}]'))
for field in (
    "temperature",
    "top_p",
    "min_p",
    "xtc_probability",
    "xtc_threshold",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
):
    for name, value in (
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("1e300", "1e300"),
        ("-1e300", "-1e300"),
        ("text", '"1"'),
    ):
        _add(f"{field} {name}", _raw(f'"{field}": {value}'))
for field in ("repetition_context_size", "presence_context_size", "frequency_context_size"):
    for value in (10**12, -1, 1.5, "20"):
        _add(f"{field} {value}", _chat(**{field: value}))
for value in (-1, 2**64, 2**70, HUGE, 0.5, "7", True):
    _add(f"seed {str(value)[:24]}", _chat(seed=value))
for value in (0, -5, 1.5, "12", True, HUGE):
    _add(f"max_tokens {str(value)[:12]}", _chat(max_tokens=value))
for value in (-2, 2**31, 1.5, "3", HUGE):
    _add(f"top_k {str(value)[:12]}", _chat(top_k=value))
_add("top_k above the vocabulary", _chat(top_k=1_000_000, temperature=1, max_tokens=2), 200)
for value in (0, 9, -1, "2", 1e9):
    _add(f"n {value}", _chat(n=value))
for name, bias in {
    "far beyond": {"999999999999": 1},
    "beyond": {"1536": 1},
    "a little beyond": {"1540": 5},
    "negative": {"-1": 1},
    "no number": {"a": 1},
    "a list": [1],
    "an infinite one": {"5": 1e300},
    "text": {"5": "1"},
    "too many": {str(number): 1 for number in range(1100)},
    "a superscript": {"\u00b2": 1},
    "a fraction": {"1.5": 1},
}.items():
    _add(f"logit_bias {name}", _chat(logit_bias=bias))
for name, given in {
    "an empty template": {"chat_template": ""},
    "an endless template": {
        "chat_template": "{% for a in range(99999999) %}{% for b in range(99999999) %}{% endfor %}{% endfor %}"
    },
    "tensors": {"return_tensors": "np"},
    "a dictionary": {"return_dict": True},
    "no tokens": {"tokenize": False},
    "messages": {"messages": "x"},
    "truncation": {"truncation": True},
    "max_length": {"max_length": 1},
    "an object": {"enable_thinking": {"a": 1}},
    "a long text": {"reasoning_effort": "x" * 5000},
    "a strange name": {"nobody knows": 1},
    "a list": [1],
    "text": "x",
}.items():
    _add(f"chat_template_kwargs {name}", _chat(chat_template_kwargs=given))
for name, field in {
    "adapters": {"adapters": "/etc"},
    "draft_model": {"draft_model": "/etc/passwd"},
    "role_mapping": {"role_mapping": {"user": "x"}},
    "chat_template": {"chat_template": "x"},
    "functions": {"functions": [{}]},
}.items():
    _add(name, _chat(**field))
for name, model in {"a file": "/etc/passwd", "a folder": "/etc", "a repository": "no/such", "nothing": ""}.items():
    _add(f"model {name}", _chat(model=model), 404)
_add("model a number", _chat(model=5))
_add("model very long", _chat(model="m" * 10_000))
for name, part in {
    "an address": {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/"}},
    "data": {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    "a file": {"type": "input_file", "file_url": "file:///etc/passwd"},
    "sound": {"type": "input_audio"},
    "a part without text": {"type": "text"},
    "a part without a type": {"text": "hi"},
    "text alone": "hi",
    "nothing": None,
}.items():
    _add(f"content {name}", _message(content=[part]))
_add("content a number", _message(content=5))
_add("content an object", _message(content={"a": 1}))
_add("role unknown", json.dumps({"messages": [{"role": "emperor", "content": "hi"}]}).encode())
_add("role missing", json.dumps({"messages": [{"content": "hi"}]}).encode())
_add("messages none", b"{}")
_add("messages empty", b'{"messages": []}')
_add("messages text", b'{"messages": "hi"}')
_add("messages null", b'{"messages": null}')
_add("messages of null", b'{"messages": [null]}')
_add("messages a prompt of 100,000 words", json.dumps({"messages": [user("hi " * 100_000)]}).encode())
_add("messages 5,000 of them", json.dumps({"messages": [user("hi")] * 5000}).encode())
_add(
    "a call whose arguments are none",
    json.dumps(
        {
            "messages": [
                user("hi"),
                {
                    "role": "assistant",
                    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{"}}],
                },
            ]
        }
    ).encode(),
)
for name, tools in {
    "text": "x",
    "null": [None],
    "no function": [{"type": "function"}],
    "another kind": [{"type": "web_search"}],
    "no name": [{"type": "function", "function": {"name": ""}}],
}.items():
    _add(f"tools {name}", _chat(tools=tools))
_add("tool_choice of nothing", _chat(tool_choice="required"))
_add("tool_choice of a stranger", _chat(tool_choice={"type": "function", "function": {"name": "x"}}))
_add("tool_choice a number", _chat(tool_choice=7))
_add("response_format unknown", _chat(response_format={"type": "xml"}))
_add("response_format no schema", _chat(response_format={"type": "json_schema", "json_schema": {"schema": 5}}))
_add(
    "response_format a schema that nothing keeps",
    _chat(response_format={"type": "json_schema", "json_schema": {"schema": {"type": "sequence"}}}),
)
_add(
    "response_format a schema that refers to itself",
    _chat(response_format={"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/x.json"}}}),
)
_add("logprobs text", _chat(logprobs="yes"))
for value in (-2, 21, 1.5, 10**9):
    _add(f"top_logprobs {value}", _chat(logprobs=True, top_logprobs=value))
_add("stream text", _chat(stream="yes"))
_add("stream_options text", _chat(stream=True, stream_options="x"))
_add("modalities sound", _chat(modalities=["audio"]))
_add("num_draft_tokens many", _chat(num_draft_tokens=10**6))
_add("no JSON", b"{")
_add("nothing at all", b"")
_add("a list", b"[]")
_add("a number", b"5")
_add("no UTF-8", b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}')
_add("deep", b'{"messages": ' + b"[" * 100_000)
_add("deep where nobody looks", _raw('"x": ' + "[" * 5000 + "]" * 5000))
_add(
    "deep in a tool",
    _raw(
        '"tools": [{"type": "function", "function": {"name": "f", "parameters": '
        + '{"a":' * 150
        + "1"
        + "}" * 150
        + "}}]"
    ),
    200,
    400,
)
_add("a number of 10,000 digits", _raw('"seed": ' + "9" * 10_000))
_add("temperature next to nothing", _chat(temperature=1e-300))
for name, prompt in {
    "empty": "",
    "an empty list": [],
    "a list of an empty list": [[]],
    "a mixture": [1, "a"],
    "null": None,
    "an object": {},
    "a negative id": [-1],
    "an id beyond": [1536],
    "an id far beyond": [2**40],
    "a fraction": [1.5],
    "seventeen": ["a"] * 17,
    "too long": "hi " * 100_000,
    "too many ids": [5] * 5000,
    "a list of null": [None],
}.items():
    _add(f"prompt {name}", json.dumps({"prompt": prompt}).encode(), path=COMPLETIONS)
_add("prompt a lone surrogate", b'{"prompt": "\\ud83d"}', path=COMPLETIONS)
_add("prompt missing", b"{}", path=COMPLETIONS)
_add("echo", b'{"prompt": "a", "echo": true}', path=COMPLETIONS)
_add("best_of", b'{"prompt": "a", "best_of": 5}', path=COMPLETIONS)
_add("suffix", b'{"prompt": "a", "suffix": "b"}', path=COMPLETIONS)
_add("logprobs many", b'{"prompt": "a", "logprobs": 1000}', path=COMPLETIONS)
_add("a path that is none", b"{}", 404, path="/v1/nothing")
_add("embeddings", b'{"input": "a", "model": "demo"}', path="/v1/embeddings")
