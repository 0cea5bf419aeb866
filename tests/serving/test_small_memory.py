"""The server in a real control group of 700 MB: what does not fit waits or is refused, and the kernel kills nobody."""

import json
import threading
from collections import Counter

import pytest

from moe_mlx.rig.cgroup import Limits, why_not
from tests.serving.running import Running, open_stream, served, until, user

#: Bytes, page cache included; no swap.
MEMORY = 700_000_000
MODEL = ("--expert-cache", "25%", "--routing", "exact")
QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."
CHAT = "/v1/chat/completions"


def text_of(running: Running, tokens: int) -> str:
    """Returns a text of so many tokens, nearly."""
    counted = running.ask("/v1/messages/count_tokens", {"messages": [user("fox " * 200)]})[2]
    return "fox " * (200 * tokens // int(json.loads(counted)["input_tokens"]))


@pytest.mark.slow
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_it_lives_in_seven_hundred_megabytes():
    with Limits(MEMORY, None, None) as limits, served(model=MODEL, within=limits.entered_by) as server:
        text, codes = text_of(server, 1980), Counter[int]()
        lengths: list[int] = []

        def ask(number: int) -> None:
            body = {"messages": [user(f"{number} {text}")], "max_tokens": 12, "stream": number % 2 == 0}
            status, _, answer = server.ask(CHAT, body, timeout=1800)
            codes[status] += 1
            if status == 200 and number % 2:
                lengths.append(json.loads(answer)["usage"]["prompt_tokens"])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(1800)
        assert codes.total() == 16 and set(codes) <= {200, 429} and codes[200] >= 8
        assert min(lengths) > 1900
        status, _, answer = server.ask(CHAT, {"messages": [user(text_of(server, 18000))]})
        assert status == 400 and json.loads(answer)["error"]["code"] == "context_length_exceeded"

        peer = open_stream(server, "Tell me a story.", max_tokens=10**12, logit_bias={"0": -100})  # and not streamed
        until(lambda: server.health()["running"] == 1, 300)
        peer.close()
        until(lambda: server.health()["running"] == 0, 300)

        assert server.said(QUESTION, max_tokens=12) == ANSWER
        assert server.process.poll() is None and server.health()["failed"] == 0
        took = {
            "codes": dict(codes),
            "prompt_tokens": max(lengths),
            "planned": server.health()["planned_bytes"],
            "peak_charged": limits.number("memory.max_usage_in_bytes"),
            "peak_process": server.footprint(),
        }
        print(json.dumps(took))
        assert took["peak_process"] < MEMORY
