"""A group of processes over one answer without an end, and what is left of it when one of them is killed or damaged."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import FAULTS, experts
from tests.machines.ranks import Rank, ranks

#: Seconds that the ranks which are left may take to say so and end: as long as `--peer-timeout` by default.
LIMIT = 60
#: How long any of this may take to begin, on a machine that is busy.
PATIENCE = 600
#: A token that the tiny model does not say: its answer has no end.
UNSAID = "~"
WORDS = ("-m", "moe_mlx", "generate", "-p", "the fox", "--max-tokens", "-1", "--routing", "exact")
SHAPE = {"num_hidden_layers": 4, "max_position_embeddings": 1 << 20}
CAP = ("--expert-cache", "20%", "--peer-timeout", "30")
UNCONNECTED = "MLX (ring) connected no machines"
#: Where an expert's data begins in its file.
DATA = 16384


@dataclass
class Endless:
    """A tiny store with row blocks, and what one process answers over it for as long as anybody wants to know.

    Attributes:
        store: Its experts are read anew all the time: the cap holds as many as a token takes.
    """

    store: Path
    _alone: subprocess.Popen[bytes]
    _text: Path

    @classmethod
    @contextmanager
    def made(cls, folder: Path) -> Iterator[Endless]:
        """Makes the store, and starts to answer alone."""
        tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, **SHAPE)
        path = folder / "checkpoint" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": UNSAID}))
        convert(folder / "checkpoint", folder / "store", row_blocks=16)
        text = folder / "alone.txt"
        words = [sys.executable, *WORDS, *CAP, "--decode", "readback", "--model", str(folder / "store")]
        with text.open("wb") as out:
            alone = subprocess.Popen(words, stdout=out, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield cls(folder / "store", alone, text)
        finally:
            with suppress(ProcessLookupError):
                alone.send_signal(signal.SIGCONT)
                alone.kill()
            alone.wait()

    def begins_with(self, told: bytes) -> bool:
        """Returns whether the answer begins so."""
        ends = time.monotonic() + PATIENCE
        self._alone.send_signal(signal.SIGCONT)
        while len(found := self._text.read_bytes()) < len(told):
            if time.monotonic() > ends or self._alone.poll() is not None:
                raise TimeoutError("one process answers no further")
            time.sleep(0.05)
        self._alone.send_signal(signal.SIGSTOP)
        return found.startswith(told)


@dataclass(frozen=True)
class Ended:
    """How a broken group ended.

    Attributes:
        where: In the midst of what it was broken.
        wrong: What was not as it has to be; "" where all was.
        seconds: From the blow to the end of the last of the others.
        compared: Bytes of the answer so far.
    """

    where: str
    wrong: str
    seconds: float
    compared: int


@contextmanager
def group_of(folder: Path, stores: Sequence[Path], rng: random.Random) -> Iterator[list[Rank]]:
    """Starts a group over some stores, by layers or rows, in the graph or by read-back."""
    parallel = rng.choice(["pipeline", "tensor"])
    more = ["--parallel", parallel, "--decode", rng.choice(["native", "readback"])]
    if parallel == "pipeline":  # the first layer has no experts
        more += ["--split", "2,2" if len(stores) == 2 else "1,1,2"]
    with ranks(folder, [[*WORDS, *CAP, *more, "--model", str(store)] for store in stores]) as group:
        yield group


def begun(group: list[Rank], nbytes: int) -> None:
    """Waits until so much of the answer is there."""
    ends = time.monotonic() + PATIENCE
    while group[0].out.stat().st_size < nbytes:
        if time.monotonic() > ends or any(rank.process.poll() is not None for rank in group):
            raise TimeoutError(f"no answer: {[rank.said for rank in group]}")
        time.sleep(0.02)


def left(group: list[Rank], rank: int, began: float, limit: float) -> tuple[list[int | None], float]:
    """Waits for the ranks but one; returns their exit codes, None of those that still run, and the seconds it took."""
    codes: list[int | None] = []
    for number, one in enumerate(group):
        if number != rank:
            with suppress(subprocess.TimeoutExpired):
                one.wait(max(0.1, began + limit - time.monotonic()))
            codes.append(one.process.poll())
    return codes, time.monotonic() - began


def problem(group: list[Rank], rank: int, codes: list[int | None], endless: Endless, named: str) -> str:
    """Returns what the ranks that are left did not do as they have to; "" where they did."""
    told = group[0].out.read_bytes()
    others = [one for number, one in enumerate(group) if number != rank]
    if set(codes) != {1}:
        return f"exit codes {codes}: {[one.said[-500:] for one in others]}"
    if silent := [one.said[-500:] for one in others if named not in one.said]:
        return f"{named!r} is not named: {silent}"
    return "" if endless.begins_with(told.rstrip(b"\n")) else f"another answer than alone: {told[:500]!r}"


def killed(folder: Path, endless: Endless, rng: random.Random) -> Ended:
    """Kills one rank, at a random moment of the start or the answer."""
    size = rng.choice([2, 2, 3])
    rank, early = rng.randrange(size), rng.random() < 0.2
    with group_of(folder, [endless.store] * size, rng) as group:
        if early:
            time.sleep(rng.uniform(0.2, 10))
        else:
            begun(group, rng.randrange(1, 120))
        began = time.monotonic()
        group[rank].process.kill()
        # One that is missing at the start is waited for from when the others are there.
        codes, seconds = left(group, rank, began, LIMIT + (PATIENCE if early else 0))
        where = f"{'start' if early else 'answer'} of {size}"
        found = problem(group, rank, codes, endless, f"rank {rank} (127.0.0.1)")
        if early and found and all(UNCONNECTED in one.said for n, one in enumerate(group) if n != rank):
            found = ""  # between the meeting and MLX's own, which says no name
        return Ended(where, found, seconds, group[0].out.stat().st_size)


def damaged(folder: Path, endless: Endless, rng: random.Random) -> Ended:
    """Damages one rank's experts, before it starts or while it answers."""
    size = rng.choice([2, 2, 3])
    rank, early = rng.randrange(size), rng.random() < 0.3
    # A file that is held open is read on when it has no name any more.
    fault = rng.choice(["flipped", "truncated", "emptied", *(["unlinked"] if early else [])])
    broken = Path(shutil.copytree(endless.store, folder / "broken"))
    try:
        if early:
            damage(broken, fault)
        stores = [broken if place == rank else endless.store for place in range(size)]
        with group_of(folder, stores, rng) as group:
            if not early:
                begun(group, rng.randrange(1, 120))
                damage(broken, fault)
            began = time.monotonic()
            codes, seconds = left(group, rank, began, LIMIT + (PATIENCE if early else 0))
            with suppress(subprocess.TimeoutExpired):
                group[rank].wait(LIMIT)
            where = f"{fault}, {'start' if early else 'answer'} of {size}"
            found = problem(group, rank, codes, endless, f"rank {rank} (127.0.0.1): layer")
            if not found and group[rank].process.poll() != 3:
                found = f"exit code {group[rank].process.poll()} of the damaged one: {group[rank].said[-500:]}"
            return Ended(where, found, max(0.0, seconds), group[0].out.stat().st_size)
    finally:
        shutil.rmtree(broken)


def damage(store: Path, fault: str) -> None:
    """Damages every expert, whichever rows of it a rank reads."""
    for path in experts(store):
        if fault == "flipped":
            data = bytearray(path.read_bytes())
            data[DATA::64] = bytes(byte ^ 1 for byte in data[DATA::64])
            path.write_bytes(data)
        else:
            FAULTS[fault](path)
