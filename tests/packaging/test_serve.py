"""The server as a command: `generate`'s answers, requests at once, and faults that end one request only."""

import http.client
import json
import shutil
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

from moe_mlx_convert import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint


@contextmanager
def served(*more: str, server_words: tuple[str, ...] = ()) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--routing", "exact", "--decode", "readback", *more]
    words += ["--", "--port", str(port), "--max-tokens", "12", *server_words]
    server = subprocess.Popen(
        [sys.executable, "-m", "moe_mlx", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    for line in server.stderr:  # the server says when it listens
        if "serving " in line:
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


def post(url: str, text: str, **more: object) -> http.client.HTTPResponse:
    body = json.dumps({"messages": [{"role": "user", "content": text}], **more}).encode()
    request = urllib.request.Request(f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"})
    response = urllib.request.urlopen(request, timeout=120)
    assert isinstance(response, http.client.HTTPResponse)
    return response


def ask(url: str, text: str, **more: object) -> str:
    with post(url, text, **more) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def planned(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=60) as response:
        return int(json.load(response)["planned_bytes"])


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
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(url, "hi", model="/no/such/model")
    assert caught.value.code == 404
    assert ask(url, "hello")


def test_what_it_used_is_kept_when_it_is_told_to_end(tmp_path: Path):
    with served("--history", str(tmp_path)) as (url, server):
        ask(url, "What is 2 plus 3?")
        server.terminate()
        assert server.wait(60) == 128 + signal.SIGTERM
    (path,) = tmp_path.iterdir()
    assert sum(json.loads(path.read_text())["layers"][0]["uses"]) > 0


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
    convert(folder / "checkpoint", folder / "store")
    return folder


@pytest.mark.rows_by_day(1)
@pytest.mark.parametrize("way", ["readback", "auto"])
@pytest.mark.parametrize("batched", [True, False])
def test_a_broken_expert_ends_its_request_and_not_the_server(pristine: Path, tmp_path: Path, way: str, batched: bool):
    store = Path(shutil.copytree(pristine / "store", tmp_path / "store"))
    files = sorted((store / "experts").rglob("*.safetensors"))
    how = {} if batched else {"seed": 1}  # mlx-lm batches no request that brings its own seed
    with served("--model", str(store), "--expert-cache", "25%", "--decode", way) as (url, _):
        expected = ask(url, "what is a fox", temperature=0, **how)
        for path in files:
            path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(url, "and now something else altogether", **how)
        assert caught.value.code == 500
        said = json.load(caught.value)["error"]["message"]
        assert "expert" in said and ".safetensors" in said and str(store) not in said
        with pytest.raises(urllib.error.HTTPError) as caught:  # before its first word a stream is an error with a code
            post(url, "a third thing, 0123456789", stream=True, **how)
        assert caught.value.code == 500
        with urllib.request.urlopen(f"{url}/health", timeout=60) as response:
            assert response.status == 200
        for path in files:
            shutil.copyfile(pristine / "store" / path.relative_to(store), path)
        assert ask(url, "what is a fox", temperature=0, **how) == expected


@pytest.mark.slow
def test_a_draft_model_is_loaded_whole_beside_it(pristine: Path):
    model = ("--model", str(pristine / "store"), "--expert-cache", "25%")
    with served(*model) as (url, _):
        expected, alone = ask(url, "what is a fox", temperature=0), planned(url)
    with served(*model, server_words=("--draft-model", str(pristine / "checkpoint"))) as (url, _):
        assert ask(url, "what is a fox", temperature=0) == expected
        weights = sum(path.stat().st_size for path in (pristine / "checkpoint").glob("*.safetensors"))
        assert planned(url) > alone + weights  # its KV cache too


@pytest.mark.slow
def test_a_draft_model_for_a_cache_that_cannot_be_cut_back_ends_the_start(pristine: Path, tmp_path: Path):
    for family in ("qwen3_next", "gpt_oss"):  # states, and windows that are full at some time
        target = tiny_checkpoint(family, tmp_path / family)
        draft = ("--draft-model", str(pristine / "checkpoint"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        run = start("--model", str(target), "--expert-cache", "100%", "--decode", "readback", *draft, "--port", port)
        assert (run.returncode, run.stdout) == (2, "")
        assert "cannot be cut back" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.rows_by_day(1)
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
        run = start("--decode", "readback", "--port", str(taken.getsockname()[1]))
    assert run.returncode == 1
    assert "cannot listen on" in run.stderr and "Traceback" not in run.stderr


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moe_mlx", "serve", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
