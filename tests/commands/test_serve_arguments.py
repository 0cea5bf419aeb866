"""`moe-mlx serve` before any model is loaded: what is missing and what cannot be taken is one line."""

import pytest

from moe_mlx.cli import main
from moe_mlx.commands import serve


def test_without_the_extra_it_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    assert main(["serve"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'moe-mlx[serve]'" in line


@pytest.mark.parametrize(
    "words",
    [
        ["--no-such-thing"],
        ["--", "--no-such-thing"],
        ["--port", "99999"],
        ["--temp", "nan"],
        ["--temp", "-1"],
        ["--chat-template-args", "[]"],
        ["--max-tokens", "0"],
        ["--", "--max-tokens", "x"],
        ["--log-level", "LOUD"],
    ],
)
def test_what_cannot_be_taken_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        main(["serve", *words])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
