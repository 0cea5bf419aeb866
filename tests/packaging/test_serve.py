"""mlx-lm's server over our loader: the same answer as `generate`, requests one after another and at once."""

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def served(*more: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--routing", "exact", "--decode", "readback", *more]
    words += ["--", "--port", str(port), "--max-tokens", "12"]
    server = subprocess.Popen(
        [sys.executable, "-m", "moe_mlx", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    for line in server.stderr:  # the server says when it listens
        if "Starting httpd" in line:
            break
    drain = threading.Thread(target=server.stderr.read, daemon=True)
    drain.start()
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as (url, _):
        yield url


def ask(url: str, text: str) -> str:
    body = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def test_it_answers_as_generate_does(url: str):
    words = ["generate", "--routing", "exact", "-p", "What is the capital of Italy?", "-m", "12", "-q"]
    run = subprocess.run(
        [sys.executable, "-m", "moe_mlx", *words], check=True, capture_output=True, text=True, timeout=120
    )
    assert ask(url, "What is the capital of Italy?").strip() == run.stdout.strip()


def test_requests_at_once_are_all_answered(url: str):
    answers: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda number=number: answers.update({number: ask(url, "What is 2 plus 3?")}))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(answers) == 3
    assert len(set(answers.values())) == 1


def test_a_model_that_is_not_there_is_an_error_and_not_the_end(url: str):
    body = json.dumps({"model": "/no/such/model", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=120)
    assert ask(url, "hello")


def test_what_it_used_is_kept_when_it_is_told_to_end(tmp_path: Path):
    with served("--history", str(tmp_path)) as (url, server):
        ask(url, "What is 2 plus 3?")
        server.terminate()
        assert server.wait(60) == -signal.SIGTERM
    (path,) = tmp_path.iterdir()
    assert sum(json.loads(path.read_text())["layers"][0]["uses"]) > 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["--model", "/no/such/model"], 3, "no model at"), (["--expert-cache", "3B"], 4, "smallest")],
)
def test_a_model_that_cannot_be_loaded_ends_the_server(words: list[str], code: int, said: str):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    run = start(*words, "--port", port)
    assert (run.returncode, run.stdout) == (code, "")
    assert said in run.stderr and "Traceback" not in run.stderr


def test_a_port_that_is_taken_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = start("--port", str(taken.getsockname()[1]))
    assert run.returncode == 1
    assert "cannot listen there" in run.stderr and "Traceback" not in run.stderr


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moe_mlx", "serve", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
