"""Whatever mlx-lm does around generation, with steps queued in the graph: nothing hangs, nothing changes."""

import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm
import pytest
from mlx_lm.generate import batch_generate, generate_step, speculative_generate_step
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache

from tests.native.conftest import loaded
from tests.native.endings import ENDINGS, HEAD, PATIENCE, in_one_thread_after_another, within


@pytest.mark.rows_by_day(3)
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_while_work_is_queued(native: Any, tiny: Callable[..., Path], ending: str):
    done = subprocess.run(
        [sys.executable, "-c", HEAD + ENDINGS[ending], str(tiny())],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_clearing_mlx_s_cache_while_steps_are_queued(native: Any, tiny: Callable[..., Path]):
    model, _, _ = loaded(tiny(), "native")

    def work() -> None:
        for token in range(60):
            y = model(mx.array([[5 + token]]))
            mx.async_eval(y)
            mx.clear_cache()
            mx.synchronize()

    within(PATIENCE, work)


def test_saving_a_prompt_cache_that_is_not_evaluated(native: Any, tiny: Callable[..., Path], tmp_path: Path):
    model, _, _ = loaded(tiny(), "native", routing="exact")
    other, _, _ = loaded(tiny(), "readback", routing="exact")

    def work(any_model: Any, name: str) -> mx.array:
        cache = make_prompt_cache(any_model)
        for token in range(9):
            any_model(mx.array([[5 + token]]), cache=cache)
        save_prompt_cache(str(tmp_path / name), cache)
        return any_model(mx.array([[40]]), cache=load_prompt_cache(str(tmp_path / name)))

    assert mx.array_equal(within(PATIENCE, lambda: work(model, "a.safetensors")), work(other, "b.safetensors"))


def test_mlx_lm_s_own_loops(native: Any, tiny: Callable[..., Path]):
    reference = mlx_lm.load(str(tiny(store=False)))[0]
    model, tokenizer, _ = loaded(tiny(), "native", routing="exact")
    prompts = [[5, 6, 7, 8], [9, 10, 11]]

    def loops(any_model: Any) -> list[Any]:
        draft = list(speculative_generate_step(mx.array(prompts[0]), any_model, reference, max_tokens=20))
        return [
            mlx_lm.generate(any_model, tokenizer, "what is a fox", max_tokens=30),
            [response.token for response in mlx_lm.stream_generate(any_model, tokenizer, "a", max_tokens=300)],
            batch_generate(any_model, tokenizer, prompts, max_tokens=10).texts,
            batch_generate(any_model, tokenizer, prompts[:1], max_tokens=10).texts,
            [token for token, *_ in draft],
            [token for token, _ in generate_step(mx.array(prompts[1]), any_model, max_tokens=20, max_kv_size=16)],
        ]

    assert within(4 * PATIENCE, lambda: loops(model)) == loops(reference)


def test_an_answer_left_in_the_middle(native: Any, tiny: Callable[..., Path]):
    model, tokenizer, runtime = loaded(tiny(), "native", routing="exact")

    def work() -> str:
        for _ in range(5):
            for number, _response in enumerate(mlx_lm.stream_generate(model, tokenizer, "what", max_tokens=50)):
                if number == 3:
                    break
            runtime.reset()
        return mlx_lm.generate(model, tokenizer, "what", max_tokens=20)

    fresh, tokenizer, _ = loaded(tiny(), "readback", routing="exact")
    assert within(PATIENCE, work) == mlx_lm.generate(fresh, tokenizer, "what", max_tokens=20)


def test_answers_in_one_thread_after_another(native: Any, tiny: Callable[..., Path]):
    model, tokenizer, _ = loaded(tiny(), "native", routing="exact")
    told = in_one_thread_after_another(model, tokenizer, 4)
    assert len(told) == 4
    assert len(set(told)) == 1


def test_mlx_lm_s_server(native: Any, tiny: Callable[..., Path]):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["serve", "--model", str(tiny()), "--expert-cache", "25%", "--routing", "exact", "--decode", "native"]
    command = [sys.executable, "-m", "moe_mlx", *words, "--", "--port", str(port), "--max-tokens", "20"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    answers: list[str] = []

    def ask() -> None:
        body = json.dumps({"messages": [{"role": "user", "content": "what is a fox"}]}).encode()
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            answers.append(json.load(response)["choices"][0]["message"]["content"])

    try:
        assert server.stderr is not None
        assert any("http://" in line for line in server.stderr)
        threading.Thread(target=server.stderr.read, daemon=True).start()
        ask()
        together = [threading.Thread(target=ask) for _ in range(3)]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join(PATIENCE)
        ask()
    finally:
        server.terminate()
        server.wait(PATIENCE)
    assert len(answers) == 5
    assert len(set(answers)) == 1
