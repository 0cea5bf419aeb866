"""The table of docs/on-your-mac.md is what `moe-mlx plan` computes."""

import json
import re
from pathlib import Path

import pytest

from moe_mlx.cli import main

PAGE = Path(__file__).parents[2] / "docs/on-your-mac.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if re.match(r"\| \S+ \| \d+GB \|", line)
]


def test_there_is_a_table():
    assert len(ROWS) >= 9 and len({row[0] for row in ROWS}) == 3


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_the_row_is_the_plan_s(row: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model, memory, chip, slots, held, misses, crossings, speed = row
    assert main(["plan", model, "--memory", memory, "--chip", chip, "--expert-cache", "auto", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (cap,) = found["caps"]
    assert cap["fits"]
    whole = cap["expert_cache"] == found["experts_bytes"]
    gigabytes = f"{cap['expert_cache'] / 1e9:.1f} GB"
    assert held == (gigabytes if whole else f"{gigabytes} of {found['experts_bytes'] / 1e9:.1f}")
    assert slots == "all" if whole else slots.split(" of ")[0] == str(cap["slots"][0])
    assert (misses, crossings) == (f"{cap['miss_rate']:.0%}", str(cap["crossings_per_token"]))
    assert speed == f"{cap['tokens_per_second']:.1f}"
