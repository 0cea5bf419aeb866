"""What a rank refuses before it meets the others: what would be left out without a word."""

import argparse
import json
from pathlib import Path

import pytest

from moe_mlx.cli import main
from moe_mlx.commands import serve
from moe_mlx.conversation.joining import join
from moe_mlx.errors import UsageError


def launch(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Makes this process rank 0 of two."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([["127.0.0.1:32301"], ["127.0.0.1:32302"]]))
    monkeypatch.setenv("MLX_RANK", "0")
    monkeypatch.setenv("MLX_HOSTFILE", str(hosts))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", "coding"], "keep no history"),
        (["--light", "late"], "--light runs on one machine only"),
        (["--quality", "0.01"], "is held on one machine"),
        (["--warm", "on"], "--warm runs on one machine only"),
        (["--audit", "4"], "--audit runs on one machine only"),
    ],
)
def test_what_runs_on_one_machine_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    launch(monkeypatch, tmp_path)
    assert main(["generate", "-p", "x", "--parallel", "pipeline", "--peer-timeout", "1", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("word", ["--allow-models", "--pictures"])
def test_what_a_server_of_one_machine_does_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    launch(monkeypatch, tmp_path)
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    with pytest.raises(UsageError, match=f"{word} runs on one machine only"):
        join(parser.parse_args(["--parallel", "pipeline", "--peer-timeout", "1", word]), print)
