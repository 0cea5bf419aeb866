"""A usage error is one line that names what was probably meant."""

import pytest

from moe_mlx.cli import main


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chta"], "Did you mean chat?"),
        (["--verison"], "Did you mean --version?"),
        (["generate", "-p", "hi", "--rouitng", "exact"], "Did you mean --routing?"),
        (["generate", "-p", "hi", "--routing=excat"], "Did you mean exact?"),
        (["generate", "-p", "-hi"], "--option=VALUE"),
        (["chat", "demo", "--model", "other"], "argument --model: not allowed with argument MODEL"),
        (["bench", "soap"], "Did you mean soak?"),
        (["rig", "make-store", "--layer-count", "3", "x"], "unrecognized arguments: --layer-count"),
    ],
)
def test_a_usage_error_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        main(words)
    told = capsys.readouterr()
    assert (stop.value.code, told.out) == (2, "")
    assert told.err.count("\n") == 1
    assert said in told.err and "--help` explains" in told.err
