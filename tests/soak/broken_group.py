"""A group of processes over one answer without an end, and what is left of it when one of them is killed or damaged."""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from moe_mlx.commands import generate
from moe_mlx.conversation.answer import Piece
from moe_mlx.conversation.opening import open_session
from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import FAULTS, experts
from tests.machines.ranks import Rank, ranks

#: Seconds that the ranks which are left may take to say so and end: as long as `--peer-timeout` by default.
LIMIT = 60
#: How long processes may take to start and load, on a machine that is busy: nobody waits for another meanwhile.
PATIENCE = 600
#: What a rank says of another that is missing, once it has waited for so many seconds.
WAITS, SAID_AFTER = "waiting for rank", 5.0
#: A token that the tiny model does not say: its answer has no end.
UNSAID = "~"
WORDS = ("-m", "moe_mlx", "generate", "-p", "the fox", "--max-tokens", "-1", "--routing", "exact")
SHAPE = {"num_hidden_layers": 4, "max_position_embeddings": 1 << 20}
CAP = ("--expert-cache", "20%", "--peer-timeout", "30")
#: Where an expert's data begins in its file.
DATA = 16384


@dataclass
class Endless:
    """A tiny store with row blocks, and what one process answers over it for as long as anybody wants to know.

    Attributes:
        store: Its experts are read anew all the time: the cap holds as many as a token takes.
    """

    store: Path
    _pieces: Iterator[Piece]
    _text: bytearray = field(default_factory=bytearray)

    @classmethod
    @contextmanager
    def made(cls, folder: Path) -> Iterator[Endless]:
        """Makes the store, and begins to answer alone, in this process."""
        tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, **SHAPE)
        path = folder / "checkpoint" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": UNSAID}))
        convert(folder / "checkpoint", folder / "store", row_blocks=16)
        parser = argparse.ArgumentParser()
        generate.add_arguments(parser)
        words = [*WORDS[3:], *CAP, "--decode", "readback", "--no-history", "--model", str(folder / "store")]
        session = open_session(parser.parse_args(words))
        yield cls(folder / "store", session.answer(session.encode([{"role": "user", "content": "the fox"}])))
        session.close()

    def begins_with(self, told: bytes) -> bool:
        """Returns whether the answer begins so."""
        while len(self._text) < len(told):
            self._text += next(self._pieces).text.encode()
        return self._text.startswith(told)


@dataclass(frozen=True)
class Ended:
    """How a broken group ended.

    Attributes:
        where: In the midst of what it was broken.
        wrong: What was not as it has to be; "" where all was.
        seconds: From the blow to the end of the last of the others; where it fell before they had met, from when the
            last of them waited for another. Of damage, from the end of the rank that has it.
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


def left(group: list[Rank], rank: int, began: float, *, early: bool = False) -> tuple[list[int | None], float]:
    """Waits for the ranks but one; returns their exit codes, None of those that still run, and the seconds it took.

    Args:
        group: All.
        rank: The one that was struck.
        began: When that was.
        early: Whether the others may still have been starting then: the limit begins when they wait.
    """
    others = [one for number, one in enumerate(group) if number != rank]
    waited: dict[int, float] = {}
    while running := [number for number, one in enumerate(others) if one.process.poll() is None]:
        now = time.monotonic()
        for number in running:
            if number not in waited and WAITS in others[number].said:
                waited[number] = now - SAID_AFTER
        starting = early and not all(number in waited for number in running)
        if now > (began + PATIENCE if starting else max([began, *waited.values()] if early else [began]) + LIMIT):
            break
        time.sleep(0.02)
    since = max([began, *waited.values()] if early else [began])
    return [one.process.poll() for one in others], time.monotonic() - since


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
        codes, seconds = left(group, rank, began, early=early)
        where = f"{'start' if early else 'answer'} of {size}"
        found = problem(group, rank, codes, endless, f"rank {rank} (127.0.0.1)")
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
            with suppress(subprocess.TimeoutExpired):
                group[rank].wait(PATIENCE if early else LIMIT)
            codes, seconds = left(group, rank, time.monotonic())
            where = f"{fault}, {'start' if early else 'answer'} of {size}"
            found = problem(group, rank, codes, endless, f"rank {rank} (127.0.0.1): layer")
            if not found and group[rank].process.poll() != 3:
                found = f"exit code {group[rank].process.poll()} of the damaged one: {group[rank].said[-500:]}"
            return Ended(where, found, seconds, group[0].out.stat().st_size)
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
