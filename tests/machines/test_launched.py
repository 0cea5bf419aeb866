"""What mlx.launch told a process, and verbs that would answer once a machine."""

import json
from pathlib import Path

import pytest

from moe_mlx.cli import main
from moe_mlx.commands.verbs import VERBS
from moe_mlx.errors import UsageError
from moe_mlx.machines.launched import FOR_ITSELF, launched, refuse_alone


def hostfile(folder: Path, hosts: list[list[str]]) -> dict[str, str]:
    path = folder / "hosts.json"
    path.write_text(json.dumps(hosts) if len(hosts) > 1 else "\n")
    return {"MLX_RANK": "0", "MLX_HOSTFILE": str(path)}


def test_a_process_alone_is_alone(tmp_path: Path):
    assert launched({}) is None
    assert launched(hostfile(tmp_path, [["127.0.0.1:1"]])) is None, "mlx.launch of one host writes no hosts"


def test_a_ring(tmp_path: Path):
    found = launched(
        {**hostfile(tmp_path, [["10.0.0.1:32323", "10.1.0.1:32324"], ["10.0.0.2:32325"]]), "MLX_RANK": "1"}
    )
    assert found is not None
    assert (found.rank, found.size, found.backend) == (1, 2, "ring")
    assert found.meeting == ("10.0.0.1", 32326)
    assert found.named(1) == "rank 1 (10.0.0.2)"


def test_jaccl(tmp_path: Path):
    path = tmp_path / "devices.json"
    path.write_text(json.dumps([[None, "rdma_en5"], ["rdma_en5", None]]))
    found = launched({"MLX_RANK": "0", "MLX_IBV_DEVICES": str(path), "MLX_JACCL_COORDINATOR": "10.0.0.1:32323"})
    assert found is not None and (found.size, found.backend, found.meeting) == (2, "jaccl", ("10.0.0.1", 32324))
    assert found.named(1) == "rank 1"


def test_another_meeting(tmp_path: Path):
    found = launched({**hostfile(tmp_path, [["a:1"], ["b:2"]]), "MOE_MLX_MEETING": "[::1]:7"})
    assert found is not None and found.meeting == ("::1", 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"MLX_RANK": "2"}, "from 0 to 1"),
        ({"MLX_RANK": "x"}, "from 0 to 1"),
        ({"MLX_HOSTFILE": "/nowhere"}, "cannot be read"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "MPI"),
        ({"MLX_WORLD_SIZE": "2"}, "nccl"),
        ({"MOE_MLX_MEETING": "here"}, "HOST:PORT"),
    ],
)
def test_what_cannot_be_joined_is_said(tmp_path: Path, changes: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        launched({**hostfile(tmp_path, [["a:1"], ["b:2"]]), **changes})


def test_verbs_that_run_a_model_are_refused_and_others_are_not(tmp_path: Path):
    environment = hostfile(tmp_path, [["a:1"], ["b:2"]])
    assert set(VERBS) > FOR_ITSELF
    for verb in FOR_ITSELF:
        refuse_alone(verb, None, environment)
    for verb in ("generate", "serve", "chat", "bench", "eval", "lora"):
        refuse_alone(verb, None, {})
        with pytest.raises(UsageError, match="started 2 of these"):
            refuse_alone(verb, None, environment)


@pytest.mark.parametrize("words", [("generate", "--prompt", "hello"), ("serve",)])
def test_the_command_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
):
    for name, value in hostfile(tmp_path, [["127.0.0.1:1"], ["127.0.0.1:2"]]).items():
        monkeypatch.setenv(name, value)
    assert main([*words]) == 2
    told, said = capsys.readouterr()
    assert told == "" and said.count("\n") == 1 and "mlx.launch started 2" in said
