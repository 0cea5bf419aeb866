"""What becomes of an answer over two processes when one of them is killed, stopped, damaged or interrupted."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from moe_mlx_convert.reshard import convert
from tests.checkpoints import AFFINE4, tiny_checkpoint
from tests.damage import experts, flip
from tests.machines.ranks import Rank, ranks

#: A token that the tiny model does not say: its answer has no end.
UNSAID = "~"
ENDLESS = ("generate", "--parallel", "pipeline", "-p", "the fox", "--max-tokens", "-1", "--decode", "readback")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_checkpoint("qwen3_moe", folder / "checkpoint", quantization=AFFINE4, max_position_embeddings=1 << 20)
    path = folder / "checkpoint" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": UNSAID}))
    convert(folder / "checkpoint", folder / "store")
    return folder / "store"


@contextmanager
def answering(folder: Path, stores: list[Path], *more: str) -> Iterator[list[Rank]]:
    words = ["-m", "moe_mlx", *ENDLESS, "--expert-cache", "50%", *more]
    with ranks(folder, [[*words, "--model", str(store)] for store in stores]) as group:
        yield group


def begun(group: list[Rank]) -> None:
    """Waits for the first words of the answer."""
    ends = time.monotonic() + 120
    while not group[0].told:
        assert time.monotonic() < ends and group[0].process.poll() is None, [rank.said for rank in group]
        time.sleep(0.02)


def one_line(rank: Rank) -> str:
    lines = [line for line in rank.said.splitlines() if line.startswith("moe-mlx")]
    assert len(lines) == 1, rank.said
    return lines[0]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_named_and_the_answer_so_far_is_kept(store: Path, tmp_path: Path):
    with answering(tmp_path, [store] * 2) as group:
        begun(group)
        group[1].process.kill()
        assert group[0].wait(30) == 1
        assert "rank 1 (127.0.0.1) is gone" in one_line(group[0])
        assert group[0].told


@pytest.mark.slow
@pytest.mark.parametrize("way", ["native", "readback"])
def test_rank_0_that_is_killed_is_named(store: Path, tmp_path: Path, way: str):
    with answering(tmp_path, [store] * 2, "--decode", way) as group:
        begun(group)
        group[0].process.kill()
        assert group[1].wait(30) == 1
        assert "rank 0 (127.0.0.1) is gone" in one_line(group[1])


@pytest.mark.slow
def test_a_worker_that_stands_still_is_waited_for_aloud_and_then_given_up(store: Path, tmp_path: Path):
    with answering(tmp_path, [store] * 2, "--peer-timeout", "8") as group:
        begun(group)
        group[1].process.send_signal(signal.SIGSTOP)
        group[0].until("waiting for rank 1 (127.0.0.1), ", 30)
        assert group[0].wait(60) == 1
        assert "rank 1 (127.0.0.1) did not answer for 8 s" in one_line(group[0])
        group[1].process.send_signal(signal.SIGCONT)
        assert group[1].wait(30) == 1


@pytest.mark.slow
def test_a_worker_that_stands_still_for_a_while_is_waited_for(store: Path, tmp_path: Path):
    with answering(tmp_path, [store] * 2) as group:
        begun(group)
        group[1].process.send_signal(signal.SIGSTOP)
        group[0].until("waiting for rank 1", 30)
        group[1].process.send_signal(signal.SIGCONT)
        told = len(group[0].told)
        ends = time.monotonic() + 60
        while len(group[0].told) < told + 200:
            assert time.monotonic() < ends and group[0].process.poll() is None, group[0].said
            time.sleep(0.05)


@pytest.mark.slow
def test_ctrl_c_at_rank_0_stops_all_in_order(store: Path, tmp_path: Path):
    with answering(tmp_path, [store] * 2) as group:
        begun(group)
        for rank in (1, 0):
            group[rank].process.send_signal(signal.SIGINT)
        assert [rank.wait(60) for rank in group] == [130, 0]
        assert "rank 1 (127.0.0.1): layers" in group[0].said, "the receipt is there"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, -signal.SIGHUP), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_worker_whose_terminal_is_closed_is_named(store: Path, tmp_path: Path, number: int, code: int):
    with answering(tmp_path, [store] * 2) as group:
        begun(group)
        group[1].process.send_signal(number)
        assert [rank.wait(60) for rank in group] == [1, code]
        assert "rank 1 (127.0.0.1) is gone" in one_line(group[0])


@pytest.mark.slow
@pytest.mark.parametrize("way", ["native", "readback"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_damaged_expert_is_told_by_every_rank(store: Path, tmp_path: Path, rank: int, way: str):
    broken = Path(shutil.copytree(store, tmp_path / "broken"))
    # The last rank has the first layer.
    for path in experts(broken)[: len(experts(broken)) // 2] if rank else experts(broken)[len(experts(broken)) // 2 :]:
        flip(path)
    stores = [broken if place == rank else store for place in range(2)]
    with answering(tmp_path, stores, "--decode", way, "--split", "1,2") as group:
        assert [one.wait(60) for one in group] == ([1, 3] if rank else [3, 1])
        for one in group:
            assert "digest is" in one_line(one)
        assert f"rank {rank} (127.0.0.1): layer" in one_line(group[1 - rank])


@pytest.mark.slow
def test_another_store_or_cap_is_refused_by_name(store: Path, tmp_path: Path):
    other = tmp_path / "other"
    tiny_checkpoint("qwen3_moe", tmp_path / "checkpoint", quantization=AFFINE4, num_hidden_layers=3)
    convert(tmp_path / "checkpoint", other)
    words = ["-m", "moe_mlx", *ENDLESS]
    commands = [[*words, "--model", str(store)], [*words, "--model", str(other), "--expert-cache", "25%"]]
    with ranks(tmp_path, commands) as group:
        assert [one.wait(60) for one in group] == [2, 2]
        said = group[0].said.splitlines()
        assert [line.removeprefix("moe-mlx generate: ").partition(":")[0] for line in said] == ["model", "expert cache"]
        assert all("rank 1 (127.0.0.1) has" in line and "rank 0 (127.0.0.1) has" in line for line in said)
