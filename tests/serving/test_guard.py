"""Who may ask: keys, hosts and origins, and that no page of the web is answered."""

import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moe_mlx.errors import UsageError
from moe_mlx.serving.guard import rules_for
from tests.serving.running import Running, served, user

HI = {"messages": [user("hi")], "max_tokens": 2}
CHAT = "/v1/chat/completions"
KEY = "a-key-of-some-length"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8080", "localhost.evil.example", "", "127.0.0.2", "[::2]"]
)
def test_a_name_that_is_not_the_server_s_is_refused(running: Running, host: str):
    status, _, body = running.ask(CHAT, HI, headers={"Host": host})
    assert status == 403 and json.loads(body)["error"]["code"] == "host"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:8080", "LOCALHOST:80"])
def test_its_own_names_are_taken(running: Running, host: str):
    assert running.ask("/v1/models", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
    ],
)
def test_a_page_of_the_web_is_refused(running: Running, headers: dict[str, str]):
    status, got, _ = running.ask(CHAT, HI, headers=headers)
    assert status == 403
    assert not [name for name in got if name.startswith("access-control")]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_page_may_send_unasked_is_no_request(running: Running, kind: str):
    assert running.ask(CHAT, HI, headers={"Content-Type": kind})[0] == 415


def test_a_page_asks_beforehand_and_is_told_nothing(running: Running):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    status, got, _ = running.ask(CHAT, headers=asked, method="OPTIONS")
    assert status == 403 and "access-control-allow-origin" not in got


def test_a_server_with_a_key_and_a_page_that_may_ask(tmp_path: Path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    page = "https://chat.example"
    with served("--api-key-file", str(file), "--allowed-origins", page, "--alias", "gpt-9") as server:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"x-api-key": KEY[:-1]}, {"Authorization": KEY}):
            status, got, body = server.ask(CHAT, HI, headers=headers)
            assert status == 401 and json.loads(body)["error"]["code"] == "invalid_api_key"
            assert got["www-authenticate"] == "Bearer"
        status, _, body = server.ask("/v1/messages", HI)
        assert status == 401 and json.loads(body)["type"] == "error"
        for headers in ({"Authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
            assert server.ask(CHAT, HI, headers=headers)[0] == 200
        assert json.loads(server.ask("/health")[2]) == {"status": "ok"}
        assert "model" in json.loads(server.ask("/health", headers={"x-api-key": KEY})[2])
        known = {"Authorization": f"Bearer {KEY}", "Origin": page}
        status, got, _ = server.ask(CHAT, HI, headers=known)
        assert (status, got["access-control-allow-origin"]) == (200, page)
        before = {"Origin": page, "Access-Control-Request-Method": "POST"}
        status, got, _ = server.ask(CHAT, headers=before, method="OPTIONS")
        assert (status, got["access-control-allow-origin"]) == (200, page)
        listed = json.loads(server.ask("/v1/models", headers={"x-api-key": KEY})[2])
        assert [row["id"] for row in listed["data"]] == ["gpt-9", "demo"]
        assert KEY not in "".join(server.lines)


def test_beyond_this_machine_a_key_is_required(monkeypatch: pytest.MonkeyPatch):
    command = [sys.executable, "-m", "moe_mlx", "serve", "--host", "0.0.0.0", "--port", "0"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2 and "give a key" in run.stderr and run.stdout == ""
    monkeypatch.setenv("MOE_MLX_API_KEY", KEY)
    rules = rules_for("0.0.0.0", key=None, key_file=None)
    assert rules.key == KEY and rules.addresses
    with pytest.raises(UsageError, match="too short"):
        rules_for("127.0.0.1", key="short", key_file=None)


def test_a_body_that_is_too_large_is_refused_before_it_is_read_whole(running: Running):
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    connection.putrequest("POST", CHAT)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    sent = 0
    try:
        while sent < 10**9:
            connection.send(b" " * 1_000_000)
            sent += 1_000_000
    except OSError:
        pass
    assert sent < 100_000_000
    assert running.health()["status"] == "ok"


def test_heads_that_arrive_slowly_hold_nobody_up(running: Running):
    many = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(100)]
    try:
        for one in many:
            one.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        assert running.said("What is the capital of Italy?") == "The capital of Italy is Rome."
        threads = len(list(Path(f"/proc/{running.process.pid}/task").iterdir()))
        assert threads < 60
    finally:
        for one in many:
            one.close()


@pytest.mark.slow
def test_a_head_that_does_not_arrive_is_not_waited_for(running: Running):
    with socket.create_connection(("127.0.0.1", running.port), timeout=40) as peer:
        peer.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ")
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(10) == b""
        assert time.monotonic() - began < 30
