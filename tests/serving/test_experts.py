"""The live map as events, and the app's source that reads it: what it shows is what the server holds."""

import asyncio
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Static

from moe_mlx.errors import MoeMlxError
from moe_mlx_tui.attached.answer import AttachedAnswer
from moe_mlx_tui.attached.link import Link
from moe_mlx_tui.attached.source import AttachedSource
from moe_mlx_tui.chat_app import ChatApp
from moe_mlx_tui.drawing.cells import ABSENT, EVICTED
from moe_mlx_tui.engine.orders import Ask, Reset
from moe_mlx_tui.engine.snapshot import CLOSED, IDLE, NO_FACTS
from moe_mlx_tui.widgets.answer_view import receipt_line
from tests.serving.running import Running, served, until, user

QUESTION, ANSWER = "What is the capital of Italy?", "The capital of Italy is Rome."


def test_the_map_and_the_gauges_are_the_server_s(running: Running):
    source = AttachedSource(running.url)
    source.start()
    try:
        before = running.chat("What is 7 plus 8?", max_tokens=8)["usage"]["moe_mlx"]
        until(
            lambda: (
                source.latest.answer.hits > 0
                and source.latest.running.hits >= before["hits"]
                and source.latest.phase == IDLE
            )
        )
        now = source.latest
        assert now.model is not None and now.model.name == "demo" and now.model.experts == (32,) * 8
        assert len(now.cells) == 256 and now.slots_per_layer == (16,) * 8
        resident = sum(cell not in (ABSENT, EVICTED) for cell in now.cells)
        assert 0 < resident <= 128
        assert now.routing == "exact" and now.memory.expert_slots > 0
        assert sum(now.layer_hits) == now.answer.hits and sum(now.layer_misses) == now.answer.misses
        assert 0 < now.answer.hits <= now.running.hits
    finally:
        source.close()


def test_the_app_talks_to_it_and_changes_nothing_of_its_owner_s(running: Running):
    source = AttachedSource(running.url)
    source.start()
    try:
        source.submit(Ask("one", 0, (user(QUESTION),)))
        until(lambda: source.latest.text == ANSWER and source.latest.phase == IDLE)
        source.submit(Reset())
        until(lambda: any("whoever runs it" in line for line in source.latest.remarks))
    finally:
        source.close()


@pytest.mark.slow
def test_a_server_that_ends_or_is_not_there_is_told():
    with pytest.raises(MoeMlxError, match="no server answers"):
        AttachedSource("http://127.0.0.1:1")
    with served("--api-key", "a-key-of-some-length") as server:
        with pytest.raises(MoeMlxError, match="API key"):
            AttachedSource(server.url)
        source = AttachedSource(server.url, "a-key-of-some-length")
        source.start()
        until(lambda: source.latest.phase == IDLE)
    until(lambda: source.latest.phase == CLOSED)
    assert source.latest.error


async def true(pilot: Any, wanted: Callable[[], bool]) -> None:
    """Waits until something is true of the app."""
    async with asyncio.timeout(30):
        while not wanted():
            await pilot.pause(0.02)


async def test_a_conversation_with_a_server_goes_on_and_has_its_receipts(running: Running, tmp_path: Path):
    source = AttachedSource(running.url)
    app = ChatApp(source, home=tmp_path)
    try:
        async with app.run_test(size=(132, 40)) as pilot:
            await true(pilot, lambda: app.shown is not None and app.shown.model is not None)
            for count, question in enumerate((QUESTION, "What is 7 plus 8?"), start=1):
                app.prompt.put(question)
                await pilot.press("enter")
                await true(pilot, lambda count=count: app.view is None and len(app.talk.messages) == 2 * count)
            await app.workers.wait_for_complete()
            first, second = app.talk.receipts[1], app.talk.receipts[3]
            assert app.talk.messages[1]["content"] == ANSWER
            assert first.counted and first.tokens == 11 and first.routing == "exact" and first.finish == "stop"
            assert 0 < first.hit_rate < 1 and first.swapped_share == 0 and first.bytes_read > 0
            assert second.prompt_tokens > first.prompt_tokens and second.reused_tokens > 0
            shown = [str(line.content) for line in app.query(".receipt").results(Static)]
            assert len(shown) == 2 and shown[0].startswith("11 tokens, ") and f"hit {first.hit_rate:.0%}" in shown[0]
            app.prompt.put("/compare exact | lambda 0.2")
            await pilot.press("enter")
            await true(pilot, lambda: app.source.latest.compared is not None)
            assert "under its own routing" in app.source.latest.compared.error
    finally:
        source.close()


@contextmanager
def silent(body: bytes, seconds: float = 30) -> Iterator[str]:
    """A server that begins its answer with `body` and says nothing for so long, then ends; or when the block does."""
    over = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
            over.wait(seconds)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()


def test_an_answer_of_a_server_is_left_at_once_and_keeps_what_was_said():
    said = json.dumps({"choices": [{"delta": {"content": "Rome"}, "finish_reason": None}]})
    published: list[dict[str, Any]] = []
    with silent(f"data: {said}\n\n".encode()) as url:
        answer = AttachedAnswer(
            Link(url), Ask("one", 0, (user(QUESTION),)), NO_FACTS, lambda **more: published.append(more)
        )
        thread = threading.Thread(target=answer.run, args=(lambda: "exact",))
        thread.start()
        until(lambda: any(more.get("text") == "Rome" for more in published))
        answer.stop()
        thread.join(5)
        assert not thread.is_alive(), "it waits for the server"
    last = published[-1]
    assert last["text"] == last["reply"]["content"] == "Rome"
    assert last["receipt"].finish == "cancelled" and last["receipt"].tokens == 1 and not last["receipt"].counted
    assert "hits and reads unknown" in receipt_line(last["receipt"]).plain


def test_a_server_that_ends_in_the_middle_of_its_answer_has_not_answered():
    published: list[dict[str, Any]] = []
    with silent(b'data: {"choices": [{"delta": {"content": "Ro"}}]}\n\n', seconds=0) as url:
        AttachedAnswer(
            Link(url), Ask("one", 0, (user(QUESTION),)), NO_FACTS, lambda **more: published.append(more)
        ).run(str)
    assert published[-1]["phase"] == IDLE and "ended in the middle of its answer" in published[-1]["error"]
