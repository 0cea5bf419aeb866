"""An ordeal for `moe-mlx serve`: mixed load on loopback while experts are damaged and the process is stopped and woken.

    python -m tests.soak.server --minutes 60

Clients ask whole and streamed, leave in the middle, read slowly, send what no honest client sends, and fill the prompt
caches. Every exact answer is compared with mlx-lm's own over the whole model. Prints one JSON object; exit code 1 if an
answer was wrong, a code was not allowed, the server died or took more memory than its plan.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mlx_lm import load as load_whole
from mlx_lm import stream_generate

from moe_mlx.store.demo import demo_path
from moe_mlx_convert import convert
from tests.serving.hostile import ROWS
from tests.serving.running import Running, events, served, user

QUESTIONS = (
    "What is the capital of Italy?",
    "What is the capital of France?",
    "What is 2 plus 3?",
    "What is 12 plus 30?",
    "What is the opposite of hot?",
    "Count from 3 to 9.",
    "Spell the word river.",
    "Who are you?",
    "Tell me a story about a fox.",
    "Sort these numbers: 5 2 9 1.",
    "Reverse the word stone.",
    "Say cat in French.",
)
TOKENS = 16
CHAT = "/v1/chat/completions"


class Ordeal:
    """What happened so far, and what must not have."""

    def __init__(self, server: Running, store: Path, expected: dict[str, str], end: float) -> None:
        self.server, self.store, self.expected, self.end = server, store, expected, end
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.damaged = 0.0
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        """Counts one event."""
        with self._lock:
            self.counts[name] += 1

    def fault(self, words: str) -> None:
        """Notes what must not happen."""
        with self._lock:
            self.wrong.append(words[:500])

    def over(self) -> bool:
        """Whether time is up, or the server is gone."""
        return time.monotonic() > self.end or self.server.process.poll() is not None

    def answer(self, number: random.Random, stream: bool) -> None:
        """Asks a question and compares the answer."""
        question = number.choice(QUESTIONS)
        body = {"messages": [user(question)], "max_tokens": TOKENS, "stream": stream}
        status, _, text = self.server.ask(CHAT, body)
        if status == 200:
            if stream:
                rows = [row for row in events(text) if row != "[DONE]"]
                if any("error" in row for row in rows):
                    self.allowed(500, json.dumps(rows[-1]).encode())
                    return
                said = "".join(row["choices"][0]["delta"].get("content") or "" for row in rows)
            else:
                said = json.loads(text)["choices"][0]["message"]["content"]
            self.count("compared")
            if said != self.expected[question]:
                self.count("wrong answers")
                self.fault(f"{question} -> {said!r}, not {self.expected[question]!r}")
            return
        self.allowed(status, text)

    def allowed(self, status: int, text: bytes) -> None:
        """Takes an answer that is none: the queue is full, or an expert that is damaged was met."""
        error = json.loads(text)["error"]
        if status == 429:
            self.count("told to come back")
        elif error["code"] == "expert_unreadable" and time.monotonic() - self.damaged < 60:
            self.count("met a damaged expert")
        else:
            self.fault(f"{status}: {error}")

    def leave(self, number: random.Random) -> None:
        """Asks and goes away."""
        body = json.dumps(
            {
                "messages": [user(number.choice(QUESTIONS))],
                "stream": number.random() < 0.5,
                "max_tokens": 10**9,
                "logit_bias": {"0": -100},
            }
        ).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as peer:
            peer.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(number.random())
            if number.random() < 0.3:
                peer.settimeout(1)
                with contextlib.suppress(TimeoutError):  # others are served first
                    for _ in range(20):
                        if not peer.recv(64):
                            break
                        time.sleep(0.05)
        self.count("left")

    def hostile(self, number: random.Random) -> None:
        """Sends what no honest client sends."""
        name = number.choice(list(ROWS))
        path, body, codes = ROWS[name]
        status, _, text = self.server.ask(path, body)
        self.count("hostile")
        if status not in (*codes, 429) and not (status == 500 and b"expert_unreadable" in text):
            self.fault(f"{name}: {status} {text[:200]!r}")

    def crowd(self, number: random.Random) -> None:
        """Fills prompt caches and the context."""
        text = " ".join(number.choice(QUESTIONS) for _ in range(number.randrange(5, 60)))
        body = {"messages": [user(text)], "max_tokens": 4, "seed": number.randrange(9), "temperature": 1}
        status, _, answer = self.server.ask(CHAT, body)
        if status == 200:
            self.count("long prompts")
        else:
            self.allowed(status, answer)

    def client(self, seed: int) -> None:
        """Asks until time is up."""
        number = random.Random(seed)
        kinds: list[Any] = [
            lambda: self.answer(number, False),
            lambda: self.answer(number, True),
            lambda: self.leave(number),
            lambda: self.hostile(number),
            lambda: self.crowd(number),
        ]
        while not self.over():
            try:
                number.choices(kinds, (5, 5, 2, 4, 1))[0]()
            except Exception as error:
                if not self.over():
                    self.fault(f"{type(error).__name__}: {error}")

    def harm(self, seed: int) -> None:
        """Damages an expert for a while, or stops the process for a moment, again and again."""
        number = random.Random(seed)
        files = sorted((self.store / "experts").rglob("*.safetensors"))
        while not self.over():
            time.sleep(number.uniform(3, 9))
            if number.random() < 0.3:
                os.kill(self.server.process.pid, signal.SIGSTOP)
                time.sleep(number.uniform(0.2, 2))
                os.kill(self.server.process.pid, signal.SIGCONT)
                self.count("stalls")
                continue
            chosen = number.sample(files, 12)
            whole = [path.read_bytes() for path in chosen]
            self.damaged = time.monotonic() + 10
            for path, data in zip(chosen, whole, strict=True):
                path.write_bytes(data[:-9] if number.random() < 0.5 else data[:-64] + bytes(64))
            time.sleep(number.uniform(0.5, 3))
            for path, data in zip(chosen, whole, strict=True):
                path.write_bytes(data)
            self.damaged = time.monotonic()
            self.count("damages")


def expected_answers() -> dict[str, str]:
    """Returns mlx-lm's own answers, everything resident."""
    model, tokenizer = load_whole(str(demo_path()))
    answers = {}
    for question in QUESTIONS:
        prompt = tokenizer.apply_chat_template([user(question)], add_generation_prompt=True)
        pieces = stream_generate(model, tokenizer, prompt, max_tokens=TOKENS)
        answers[question] = "".join(piece.text for piece in pieces)
    return answers


def run(minutes: float, clients: int, decode: str, seed: int) -> dict[str, Any]:
    """Runs the ordeal and returns what came of it."""
    expected = expected_answers()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "demo"
        convert(demo_path(), store)
        model = ("--model", str(store), "--expert-cache", "25%", "--routing", "exact", "--decode", decode)
        with served("--max-waiting", "3", "--decode-concurrency", "3", model=model) as server:
            empty = server.footprint()
            ordeal = Ordeal(server, store, expected, time.monotonic() + 60 * minutes)
            threads = [threading.Thread(target=ordeal.client, args=(seed + place,)) for place in range(clients)]
            threads.append(threading.Thread(target=ordeal.harm, args=(seed - 1,)))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            dead = server.process.poll() is not None
            last = {} if dead else {question: server.said(question, max_tokens=TOKENS) for question in QUESTIONS}
            if not dead and last != expected:
                ordeal.fault("the last answers are not mlx-lm's")
            health = {} if dead else server.health()
            peak = 0 if dead else server.footprint()
            within = not dead and peak < empty + health["planned_bytes"]
    return {
        "minutes": minutes,
        "clients": clients,
        "decode": decode,
        "wrong answers": 0,
        **dict(sorted(ordeal.counts.items())),
        "deaths": int(dead),
        "faults": len(ordeal.wrong),
        "first_faults": ordeal.wrong[:20],
        "health": health,
        "peak_bytes": peak,
        "empty_bytes": empty,
        "within_plan": within,
    }


def main() -> int:
    """Runs it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--decode", choices=("auto", "native", "readback"), default="auto")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    found = run(args.minutes, args.clients, args.decode, args.seed)
    print(json.dumps(found, indent=2))
    return int(bool(found["deaths"] or found["faults"] or not found["within_plan"]))


if __name__ == "__main__":
    sys.exit(main())
