"""Turn after turn with broken files, stalls, stops and resizes: every fault ends one turn, no fault outlives it.

`python -m tests.soak.faults --minutes 60` prints what it injected; the test runs a short one. After each fault the next
exact answer must be the one an undisturbed model gives.
"""

import argparse
import collections
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlx.core as mx

import moe_mlx
from moe_mlx.errors import ExpertReadError
from moe_mlx.memory import read_memory
from moe_mlx.residency import QUARANTINED
from moe_mlx.session import Sampling, Session
from moe_mlx_convert.reshard import convert
from tests.families.tiny import AFFINE4, tiny_checkpoint

QUESTIONS = ("what is a fox", "tell me more", "a longer question, with many words in it, " * 6, "why")
FILE_FAULTS = ("flip", "truncate", "unlink")


@contextmanager
def broken(path: Path, fault: str) -> Iterator[None]:
    """Breaks one file, and mends it afterwards."""
    data = path.read_bytes()
    if fault == "unlink":
        path.unlink()
    elif fault == "truncate":
        os.truncate(path, len(data) // 2)
    else:
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 0x55]) + data[-2:])
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(data)


class Soak:
    """One model under test, an undisturbed one beside it, and the counts."""

    def __init__(self, folder: Path, seed: int, decode: str) -> None:
        self.chance = random.Random(seed)
        tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4)
        convert(folder / "checkpoint", folder / "store")
        self.files = sorted((folder / "store" / "experts").rglob("*.safetensors"))
        self.talk = self._session(folder / "store", "25%", decode)
        calm = self._session(folder / "checkpoint", "100%", "readback")
        self.expected = {text: self._ask(calm, text).tokens for text in QUESTIONS}
        self.counts: collections.Counter[str] = collections.Counter()

    @staticmethod
    def _session(folder: Path, cap: str, decode: str) -> Session:
        model, tokenizer = moe_mlx.load(folder, expert_cache=cap, routing="exact", decode=decode, say=lambda line: None)
        return Session(model, tokenizer, Sampling(max_tokens=10))

    @staticmethod
    def _ask(talk: Session, text: str, stop_after: int = -1):
        stop = threading.Event()
        for count, _ in enumerate(talk.answer(talk.encode([{"role": "user", "content": text}]), stop=stop)):
            if count == stop_after:
                stop.set()
        assert talk.last is not None
        return talk.last

    def turn(self) -> None:
        """Does one random thing, then asks for an exact answer and compares it."""
        what = self.chance.choice([*FILE_FAULTS, "stop", "resize", "stall", "calm"])
        getattr(self, f"_{what}", lambda: self._file_fault(what))()
        self.counts[what] += 1
        for cache in self.talk.runtime.layers:
            cache.table.check()
        text = self.chance.choice(QUESTIONS)
        answer = self._ask(self.talk, text)
        assert answer.tokens == self.expected[text], f"after {what}: {answer.tokens} instead of {self.expected[text]}"
        self.counts["answers compared"] += 1
        if (native := self.talk.runtime.native) is not None and not mx.metal.is_available():
            assert native.module.active_tasks() == 0, "MLX waits for tasks that nobody ends"

    def _file_fault(self, fault: str) -> None:
        self.talk.runtime.resize("18.75%")
        moe_mlx.reset(self.talk.model)
        with broken(self.chance.choice(self.files), fault):
            try:
                self._ask(self.talk, self.chance.choice(QUESTIONS))
            except ExpertReadError:
                self.counts["turns ended by an error"] += 1

    def _stop(self) -> None:
        self._ask(self.talk, self.chance.choice(QUESTIONS), self.chance.randrange(6))

    def _resize(self) -> None:
        self.talk.runtime.resize(f"{self.chance.uniform(18.75, 100):.2f}%")

    def _stall(self) -> None:
        if self.talk.runtime.decode_way == "native" and self.chance.random() < 0.5:
            self._stall_in_the_graph()
        else:
            self._stall_in_python()

    def _stall_in_the_graph(self) -> None:
        runtime = self.talk.runtime
        assert runtime.native is not None
        runtime.resize("18.75%")
        self._ask(self.talk, QUESTIONS[0])  # layers are handed to the graph at their first step
        moe_mlx.reset(self.talk.model)
        handles = [layer._handle for layer in runtime.native.layers]
        for handle in handles:
            handle.stall_seconds = 1e-9  # hardly a disk answers so fast
        try:
            self._ask(self.talk, self.chance.choice(QUESTIONS))
        except ExpertReadError:
            self.counts["turns ended by an error"] += 1
            self.counts["stalls in the graph"] += 1
        finally:
            for handle in handles:
                handle.stall_seconds = runtime.pool.stall_seconds
        self._await_stalled_reads()

    def _await_stalled_reads(self) -> None:
        """Slots of reads that were given up come back when those reads end."""
        ends = time.monotonic() + 60
        while any(QUARANTINED in cache.table.used for cache in self.talk.runtime.layers):
            assert time.monotonic() < ends, "a slot was never given back"
            self.talk.runtime.drain()

    def _stall_in_python(self) -> None:
        runtime, source = self.talk.runtime, self.talk.runtime.source
        way, limit, read_into = runtime.decode_way, runtime.pool.stall_seconds, source.read_into
        runtime.use_decode("readback")
        runtime.resize("18.75%")
        moe_mlx.reset(self.talk.model)
        release, slow = threading.Event(), self.chance.randrange(8)
        calls = iter(range(1 << 30))

        def stalling(index: int, expert: int, buffers) -> int:
            if next(calls) == slow:
                release.wait(30)
            return read_into(index, expert, buffers)

        source.read_into = stalling  # type: ignore[method-assign]
        runtime.pool.stall_seconds = 0.02
        try:
            self._ask(self.talk, self.chance.choice(QUESTIONS))
        except ExpertReadError:
            self.counts["turns ended by an error"] += 1
        finally:
            release.set()
            source.read_into = read_into  # type: ignore[method-assign]
            runtime.pool.stall_seconds = limit
            runtime.pool.settle()
        runtime.use_decode(way)

    def _calm(self) -> None:
        pass


def run(seconds: float, seed: int = 0, decode: str = "auto", turns: int = 1 << 30) -> dict[str, int]:
    """Runs until `seconds` or `turns` are over and returns what happened, with the growth of the footprint in MB."""
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), seed, decode)
        for _ in range(20):
            soak.turn()
        before, ends = read_memory().footprint, time.monotonic() + seconds
        while time.monotonic() < ends and turns > 0:
            soak.turn()
            turns -= 1
        soak.counts["footprint growth, MB"] = (read_memory().footprint - before) // 10**6
        soak.talk.runtime.close()
        return dict(soak.counts)


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--decode", choices=("auto", "native", "readback"), default="auto")
    args = parser.parse_args()
    for name, count in run(args.minutes * 60, args.seed, args.decode).items():
        print(f"{count:8}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
