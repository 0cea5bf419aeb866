"""Rows at once: every way says the same, and what rows share is read once."""

import json
from pathlib import Path

import pytest

from moe_mlx.cli import main
from moe_mlx.native import build
from moe_mlx.native.toolchain import NativeUnavailableError
from tests.checkpoints import AFFINE4, tiny_checkpoint


@pytest.mark.slow
def test_rows_are_told_beside_mlx_lm(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    try:
        build.load_native(lambda line: None)
    except NativeUnavailableError as error:
        pytest.skip(f"no in-graph decode here: {error}")
    model = tiny_checkpoint("qwen3_moe", tmp_path / "model", quantization=AFFINE4)
    words = ["bench", "batch", str(model), "--rows", "1,2", "--expert-cache", "50%", "-g", "12", "-n", "1", "--json"]
    capsys.readouterr()  # what making the model said
    assert main(words) == 0
    rows = {(row["rows"], row["way"]): row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert set(rows) == {(size, way) for size in (1, 2) for way in ("mlx-lm", "native", "readback")}
    for size in (1, 2):
        native, readback = rows[size, "native"], rows[size, "readback"]
        assert native["bytes_a_token"] == readback["bytes_a_token"] > 0
        assert (native["read_backs_a_step"], readback["read_backs_a_step"] > 0) == (0, True)


@pytest.mark.parametrize("words", [["--rows", "0"], ["--rows", "65"], ["-g", "0"], ["-n", "0"]])
def test_what_cannot_be_measured_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "batch", "demo", *words]) == 2
    assert words[1] not in capsys.readouterr().out
