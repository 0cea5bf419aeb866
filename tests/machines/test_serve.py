"""A server whose model runs over two processes: one process's answers, and what clients hear when a rank is gone."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from moe_mlx_convert.reshard import convert
from moe_mlx_tui.attached.source import AttachedSource
from moe_mlx_tui.drawing.cells import ABSENT
from moe_mlx_tui.engine.snapshot import CLOSED
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.machines.ranks import Rank, ranks
from tests.serving.running import Running, events, open_stream, served, until, user

WORDS = ("--routing", "exact", "--expert-cache", "50%")
#: An answer of the tiny model that has no end of its own.
LONG = 6000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, max_position_embeddings=1 << 20)
    path = folder / "checkpoint" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "~"}))
    convert(folder / "checkpoint", folder / "store", row_blocks=16)
    return folder / "store"


@contextmanager
def serving(
    folder: Path, store: Path, *more: str, way: str = "pipeline", decode: str = "native"
) -> Iterator[tuple[Running, list[Rank]]]:
    words = ["-m", "moe_mlx", "serve", *WORDS, "--port", "0", "--parallel", way, "--decode", decode]
    words += ["--model", str(store), *more]
    with ranks(folder, [words] * 2) as group:
        group[0].until("serving ")
        line = next(line for line in group[0].said.splitlines() if "serving " in line)
        yield Running(line.rsplit(" ", 1)[-1], group[0].process, []), group


@pytest.fixture(scope="module")
def both(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, list[Rank]]]:
    with serving(tmp_path_factory.mktemp("group"), store, "--max-kv-size", "8192") as both:
        yield both


@pytest.fixture(scope="module")
def running(both: tuple[Running, list[Rank]]) -> Running:
    return both[0]


def beginning_of(peer: socket.socket) -> bytes:
    said = b""
    while b"data:" not in said:
        said += peer.recv(1 << 16)
    return said


def rest_of(peer: socket.socket) -> bytes:
    said = b""
    while piece := peer.recv(1 << 16):
        said += piece
    return said


#: Counters of an answer that are one process's.
SAME = ("hits", "misses", "bytes_read")
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "n",
        "schema": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
    },
}
ASKED: tuple[dict[str, Any], ...] = (
    {"messages": [user("what is a fox")], "max_tokens": 12},
    {"messages": [user("what is a fox"), {"role": "assistant", "content": "a"}, user("and now")], "max_tokens": 12},
    {"messages": [user("again")], "max_tokens": 12, "temperature": 1.0, "seed": 7},
    {"messages": [user("again")], "max_tokens": 12, "logit_bias": {"20": 5, "21": 5}, "frequency_penalty": 1.5},
    {"messages": [user("again")], "max_tokens": 6, "logprobs": True, "top_logprobs": 2},
    {"messages": [user("again")], "max_tokens": 24, "stop": ["a", "e"]},
)


@pytest.fixture(scope="module")
def alone(store: Path) -> dict[str, list[dict[str, Any]]]:
    """What one process answers, by decode way."""
    found = {}
    for decode in ("native", "readback"):
        with served("--model", str(store), "--decode", decode, model=WORDS) as one:
            found[decode] = [json.loads(one.ask("/v1/chat/completions", body)[2]) for body in ASKED]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("decode", ["native", "readback"])
@pytest.mark.parametrize("way", ["pipeline", "tensor"])
def test_two_processes_serve_what_one_does(
    store: Path, alone: dict[str, list[dict[str, Any]]], tmp_path: Path, way: str, decode: str
):
    with serving(tmp_path, store, way=way, decode=decode) as (running, _):
        found = [json.loads(running.ask("/v1/chat/completions", body)[2]) for body in ASKED]
        health = running.health()["machines"]
    for ours, theirs in zip(found, alone[decode], strict=True):
        assert ours.get("choices") == theirs["choices"], ours
        counted, rows = ours["usage"]["moe_mlx"], ours["usage"]["moe_mlx"]["machines"]
        assert {row["decode_way"] for row in rows} == {decode}
        assert [row["layers"] for row in rows] == ([[2], [1]] if way == "pipeline" else [[1, 2]] * 2)
        if ours["choices"][0]["finish_reason"] == "length":  # a stop is heard two tokens later, which count
            assert [counted[name] for name in SAME] == [theirs["usage"]["moe_mlx"][name] for name in SAME]
        assert sum(row["decode"]["bytes_read"] for row in rows) == counted["bytes_read"]
    for rank, row in enumerate(health):  # the last answer's figures come with it
        assert row["decode_way"] == decode
        for name in SAME:
            answers = sum(ours["usage"]["moe_mlx"]["machines"][rank]["decode"][name] for ours in found)
            assert row["decode"][name] >= answers > 0, (rank, name)


def test_a_client_that_leaves_ends_its_answer_and_the_next_one_is_right(running: Running):
    before = running.said("what is a fox", max_tokens=12)
    peer = open_stream(running, "and now", stream=True, max_tokens=LONG)
    beginning_of(peer)
    peer.close()
    until(lambda: running.health()["running"] == 0)
    assert running.said("what is a fox", max_tokens=12) == before
    status, _, body = running.ask(
        "/v1/chat/completions", {"messages": [user("what is a fox")], "stream": True, "max_tokens": 12}
    )
    text = "".join(row["choices"][0]["delta"].get("content") or "" for row in events(body)[:-1] if row["choices"])
    assert (status, text) == (200, before)


def test_each_rank_shows_in_health_metrics_and_the_map(running: Running):
    running.said("what is a fox", max_tokens=4)

    def told() -> bool:
        rows = running.health()["machines"]
        return len(rows) == 2 and all(row["decode"]["hits"] + row["decode"]["misses"] > 0 for row in rows)

    until(told)
    rows = running.health()["machines"]
    assert [row["machine"] for row in rows] == ["rank 0 (127.0.0.1)", "rank 1 (127.0.0.1)"]
    assert [row["layers"] for row in rows] == [[2, 2], [1, 1]], "of three layers the first has no experts"
    assert all(row["memory"]["footprint"] > 0 for row in rows)
    figures = running.ask("/metrics")[2].decode()
    assert 'moe_mlx_machine_bytes{machine="rank 1 (127.0.0.1)",rank="1",what="footprint"}' in figures


def test_the_app_attached_shows_the_layers_of_all_ranks(running: Running):
    running.said("what is a fox", max_tokens=4)
    source = AttachedSource(running.url)
    source.start()
    try:
        until(lambda: source.latest.model is not None and len(source.latest.machines) == 2)
        facts = source.latest.model
        assert facts is not None and facts.ranks[0] == 1 and facts.ranks[-1] == 0 and facts.layers == 2
        first = slice(0, facts.offsets[facts.ranks.count(1)])
        until(lambda: any(cell != ABSENT for cell in source.latest.cells[first]))
    finally:
        source.close()


@pytest.mark.slow
def test_a_rank_that_dies_while_nothing_is_asked_is_told_too(store: Path, tmp_path: Path):
    with serving(tmp_path, store) as (running, group):
        group[1].process.kill()
        until(lambda: running.ask("/health")[0] == 503)
        time.sleep(6)  # longer than a process that nobody minds is left alone
        assert running.health()["trouble"] and group[0].process.poll() is None


@pytest.mark.slow
def test_a_rank_that_stands_still_is_waited_for_and_then_given_up(store: Path, tmp_path: Path):
    with serving(tmp_path, store, "--peer-timeout", "6") as (running, group):
        peer = open_stream(running, "the fox", stream=True, max_tokens=LONG)
        said = beginning_of(peer)
        group[1].process.send_signal(signal.SIGSTOP)
        until(lambda: running.health()["machines"][1]["silent_seconds"] > 3)
        until(lambda: "waiting for rank 1 (127.0.0.1)" in group[0].said)
        said += rest_of(peer)
        assert b"machine_lost" in said
        assert running.ask("/health")[0] == 503


@pytest.mark.slow
def test_rank_0_told_to_end_lets_the_others_go(store: Path, tmp_path: Path):
    with serving(tmp_path, store) as (running, group):
        peer = open_stream(running, "the fox", stream=True, max_tokens=LONG)
        beginning_of(peer)
        group[0].process.send_signal(signal.SIGTERM)
        assert group[1].wait(60) == 0
        assert group[0].wait(60) in (0, 143, -signal.SIGTERM)


@pytest.mark.slow
def test_a_grammar_holds_over_machines(tmp_path: Path):
    pytest.importorskip("llguidance")
    with serving(tmp_path, Path("demo")) as (running, _):
        for _ in range(2):  # the second from a prompt cache
            said = json.loads(running.said("again", max_tokens=64, response_format=SCHEMA))
            assert isinstance(said["a"], bool)


def test_a_rank_that_dies_is_told_to_clients_and_by_health(both: tuple[Running, list[Rank]]):
    """The last of this file: it is the end of the group that the others share."""
    running, group = both
    watching = AttachedSource(running.url)
    watching.start()
    peer = open_stream(running, "the fox", stream=True, max_tokens=LONG)
    said = beginning_of(peer)
    group[1].process.kill()
    said += rest_of(peer)
    assert b"machine_lost" in said
    assert b"rank 1 of the machines" in said and b"127.0.0.1" not in said
    until(lambda: running.ask("/health")[0] == 503)
    found = running.health()
    assert found["status"] == "dead" and "rank 1 (127.0.0.1) is gone" in found["trouble"]
    status, _, body = running.ask("/v1/chat/completions", {"messages": [user("hi")]})
    assert status == 503 and json.loads(body)["error"]["code"] == "machine_lost"
    until(lambda: watching.latest.phase == CLOSED)
    assert "answers no more: rank 1 of the machines" in watching.latest.error
    assert watching.latest.remarks[-1] == watching.latest.error, "it is told where nobody asks anything, too"
    watching.close()
    group[0].process.send_signal(signal.SIGTERM)
    assert group[0].wait(30) in (0, 143, -signal.SIGTERM)
