"""What a rank refuses before it meets the others: what would be left out without a word."""

import json
from pathlib import Path

import pytest

from moe_mlx.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", "coding"], "keep no history"),
        (["--light", "late"], "--light runs on one machine only"),
        (["--quality", "0.01"], "is held on one machine"),
        (["--warm", "on"], "--warm runs on one machine only"),
    ],
)
def test_what_runs_on_one_machine_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    hosts = tmp_path / "hosts.json"
    hosts.write_text(json.dumps([["127.0.0.1:32301"], ["127.0.0.1:32302"]]))
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
    assert main(["generate", "-p", "x", "--parallel", "pipeline", "--peer-timeout", "1", *words]) == 2
    assert said in capsys.readouterr().err
