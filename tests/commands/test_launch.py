"""`moe-mlx launch`: what an agent gets to know of a server, and what is said where there is none."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from moe_mlx.cli import main


class Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.headers.get("x-api-key") == "a-key"
        body = json.dumps({"data": [{"id": "big-model", "context_length": 65536}]}).encode()
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(body if known else b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_claude_gets_its_environment(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOE_MLX_API_KEY", "a-key")
    assert main(["launch", "claude", "--url", url, "--print", "--", "-p", "two words"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert f"export ANTHROPIC_BASE_URL={url}" in out and "export ANTHROPIC_AUTH_TOKEN=a-key" in out
    assert "export ANTHROPIC_MODEL=big-model" in out
    assert out[-1] == "claude -p 'two words'"


def test_codex_gets_a_provider(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOE_MLX_API_KEY", "a-key")
    assert main(["launch", "codex", "--url", url, "--print", "--", "exec", "hi"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "model_providers.moe_mlx.base_url" in out[-1] and f"{url}/v1" in out[-1] and out[-1].endswith("exec hi")


def test_what_is_in_the_way_is_said(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MOE_MLX_API_KEY", raising=False)
    assert main(["launch", "claude", "--url", url]) == 1
    assert "give its key" in capsys.readouterr().err
    assert main(["launch", "claude", "--url", "http://127.0.0.1:1"]) == 1
    assert "no server answers" in capsys.readouterr().err
    monkeypatch.setenv("MOE_MLX_API_KEY", "a-key")
    monkeypatch.setenv("PATH", "")
    assert main(["launch", "claude", "--url", url]) == 2
    assert "is not installed here" in capsys.readouterr().err
