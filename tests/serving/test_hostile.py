"""Bodies that ended mlx_lm.server's generation, or its process: here each is one answer, the next one is as before."""

import json
from collections.abc import Iterator

import pytest

from tests.serving.hostile import ROWS
from tests.serving.running import Running

QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."


@pytest.fixture(scope="module", autouse=True)
def answers_as_before(running: Running) -> Iterator[None]:
    assert running.said(QUESTION) == ANSWER
    before = running.footprint()
    yield
    assert running.said(QUESTION) == ANSWER
    assert running.health()["status"] == "ok"
    assert running.process.poll() is None
    assert running.footprint() - before < 200_000_000


@pytest.mark.parametrize("name", ROWS)
def test_it_is_answered_with_its_code_and_shape(running: Running, name: str):
    path, body, codes = ROWS[name]
    status, headers, text = running.ask(path, body, timeout=30)
    assert status in codes, text[:500]
    assert headers["content-type"].startswith("application/json")
    answer = json.loads(text)
    if status >= 400:
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        assert "Traceback" not in text.decode() and "/site-packages/" not in text.decode()
        assert len(text) < 2000


def test_the_next_one_is_answered_after_every_one_of_them(running: Running):
    for path, body, _ in list(ROWS.values())[::12]:
        running.ask(path, body)
        assert running.said(QUESTION) == ANSWER
