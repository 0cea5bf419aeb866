"""`--quality` and `--speed` as a user meets them: what contradicts them, what generate and eval say of them."""

import json

import pytest

from moe_mlx.cli import main
from tests.checkpoints import tiny_checkpoint
from tests.evaluation.conftest import TEXT


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Verdicts of the person who runs the tests are neither read nor written; nor is a config file."""
    monkeypatch.setattr("moe_mlx.history.verdicts.user_folder", lambda: tmp_path / "home")
    monkeypatch.setenv("MOE_MLX_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("MOE_MLX_HISTORY", "off")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quality", "0.002", "--routing", "exact"], "--quality chooses the routing between tokens, and --routing"),
        (["--quality", "99%", "--route-lambda", "0.2"], "and --route-lambda names one"),
        (["--speed", "12", "--light", "late"], "--speed chooses the routing between tokens, and --light names one"),
        (["--quality", "99%", "--audit", "8"], "--quality audits by itself: leave out --audit"),
        (["--quality", "0.1", "--compare", "exact"], "leave out --compare"),
        (["--quality", "0"], "give the KL a token that may be lost"),
        (["--speed", "soon"], "give tokens a second"),
    ],
)
def test_what_contradicts_it_is_one_line_before_any_model(words, said, capsys):
    assert main(["generate", "--model", "/no/such/model", "-p", "a", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_routing_in_the_config_file_gives_way(home, capsys):
    (home / "config.toml").write_text('routing = "exact"\nlight = "late"\n')
    model = tiny_checkpoint("qwen3_moe", home / "model")
    asked = ["--quality", "0.01", "--expert-cache", "50%", "--decode", "readback", "-m", "8", "--json", "-p", "fox"]
    assert main(["generate", "--model", str(model), *asked]) == 0
    out, _ = capsys.readouterr()
    held = json.loads(out)["receipt"]["audit"]
    assert held["price"] == "quality KL 0.01" and held["settings"][0][0] == "lambda 0.02"


def test_eval_says_what_holding_comes_to(home, capsys):
    model = tiny_checkpoint("qwen3_moe", home / "model")
    (home / "text.txt").write_text(TEXT * 5)
    asked = "--limit-tokens 192 --tasks none --routing exact --expert-cache 50% --quality 0.001,90% --decode readback"
    words = ["eval", "--model", str(model), "--data", str(home / "text.txt"), *asked.split()]
    assert main([*words, "--resume", str(home / "kept.json"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["quality"] for row in rows] == ["", "0.001", "90%"]
    assert all(row["audit_bytes"] > 0 for row in rows[1:])
    assert rows[1]["spent"] == pytest.approx(rows[1]["kl"], rel=0.05), "audits find what the reference does"
    assert main([*words, "--resume", str(home / "kept.json")]) == 0
    table = capsys.readouterr().out
    assert "held at 0.001" in table and "budget" in table
    assert f"{rows[1]['kl'] / 0.001 - 1:+.0%}" in table
