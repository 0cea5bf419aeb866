"""Clients that leave, many at once, a prompt as long as it may be, and the server's own end."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.serving.running import Running, events, open_stream, served, until, user

QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."


def test_whoever_leaves_stops_costing_streamed_or_not(running: Running):
    for stream in (True, False):
        peer = open_stream(
            running, "Tell me a story about a fox.", stream=stream, max_tokens=10**12, logit_bias={"0": -100}
        )
        until(lambda: running.health()["running"] == 1)
        peer.close()
        until(lambda: running.health()["running"] == 0, 10)
    assert running.said(QUESTION) == ANSWER


@pytest.mark.slow
def test_an_answer_without_end_ends_with_the_context(running: Running):
    each = json.loads(running.ask("/v1/messages/count_tokens", {"messages": [user("fox " * 100)]})[2])["input_tokens"]
    text = "fox " * (100 * 1900 // each)
    answer = running.chat(text, max_tokens=10**12, logit_bias={"0": -100}, model="demo")
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 2048


def test_many_at_once_are_all_answered_or_told_to_come_back(running: Running):
    codes: list[int] = []
    texts: list[str] = []

    def one(number: int) -> None:
        status, _, body = running.ask("/v1/chat/completions", {"messages": [user(QUESTION)], "stream": number % 2 == 0})
        codes.append(status)
        if status == 200 and number % 2 == 0:
            rows = [row for row in events(body) if row != "[DONE]"]
            texts.append("".join(row["choices"][0]["delta"].get("content", "") for row in rows))
        elif status == 200:
            texts.append(json.loads(body)["choices"][0]["message"]["content"])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(codes) == 60 and set(codes) <= {200, 429}
    assert texts and set(texts) == {ANSWER}


@pytest.mark.slow
def test_memory_stays_near_its_plan_with_long_prompts_at_once():
    with served(model=("--expert-cache", "25%", "--routing", "exact", "--decode", "readback")) as server:
        empty = server.footprint()  # the interpreter, MLX and the model

        def one(number: int) -> None:
            server.ask("/v1/chat/completions", {"messages": [user(f"{number} fox " * 450)], "max_tokens": 8})

        threads = [threading.Thread(target=one, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
        assert server.said(QUESTION, max_tokens=12) == ANSWER
        assert server.footprint() < empty + server.health()["planned_bytes"]


def test_told_to_end_it_finishes_what_is_short_and_ends_what_is_long():
    with served("--shutdown-seconds", "2") as server:
        long = open_stream(server, "Tell me a story.", stream=True, max_tokens=10**6, logit_bias={"0": -100})
        until(lambda: server.health()["running"] == 1)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        received = b""
        while part := long.recv(65536):
            received += part
        assert server.process.wait(30) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 12
        assert b'"finish_reason":"length"' in received or b'"code":"shutting_down"' in received
        long.close()


@pytest.mark.slow
def test_a_prompt_is_not_read_again_after_a_restart(tmp_path: Path):
    text = "The fox and the hen went to the river. " * 20
    words = ("--prompt-store", str(tmp_path), "--max-tokens", "8")
    with served(*words) as server:
        first = server.chat(text)
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    with served(*words) as server:
        again = server.chat(text)
    assert again["choices"] == first["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["prompt_tokens"] - 1
    assert again["usage"]["moe_mlx"]["prompt_tokens"] == 0
