"""Help, version and completions: every verb and option is in them, and the shells take what is printed."""

import shutil
import subprocess

import pytest

from moe_mlx.cli import VERBS, main
from moe_mlx.version import __version__


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_version(option, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([option])
    assert capsys.readouterr().out == f"moe-mlx {__version__}\n"


def test_help_of_a_verb_is_its_own(capsys):
    said = []
    for words in (["help", "plan"], ["plan", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            main(words)
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "--miss-rate" in said[0]
    assert main(["help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("chat", "usage: moe-mlx chat [options] [MODEL]"),
        ("generate", "usage: moe-mlx generate [options] --prompt PROMPT"),
        ("bench", "usage: moe-mlx bench [options] {io,batch,compare,tui,soak} ..."),
        ("completions", "usage: moe-mlx completions [-h] {bash,zsh,fish}"),
    ],
)
def test_what_a_verb_does_stands_below_one_line_of_usage(verb, usage, capsys):
    with pytest.raises(SystemExit):
        main(["help", verb])
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert (first, second) == (usage, "") and third[0].isupper()


def test_help_of_what_there_is_not_names_the_nearest(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["help", "plam"])
    assert "Did you mean plan?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_have_every_verb_and_the_shell_takes_them(shell, capsys, tmp_path):
    assert main(["completions", shell]) == 0
    script = capsys.readouterr().out
    assert all(verb in script for verb in VERBS)
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"no {shell} here")
    path = tmp_path / "script"
    path.write_text(script)
    assert subprocess.run([program, "-n", str(path)], check=False, capture_output=True, text=True).stderr == ""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["moe-mlx", "pl"], {"plan"}),
        (["moe-mlx", "help", "conv"], {"convert"}),
        (["moe-mlx", "chat", "--expert"], {"--expert-cache"}),
        (["moe-mlx", "chat", "--routing", ""], {"exact", "cache-prior", "max-rank", "cumulative"}),
    ],
)
def test_bash_completes(words, wanted, capsys):
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    assert main(["completions", "bash"]) == 0
    quoted = " ".join(f"'{word}'" for word in words)
    script = capsys.readouterr().out + (
        f"\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _moe_mlx; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
    )
    run = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    assert set(run.stdout.split()) == wanted


def test_alone_it_is_usage_in_a_pipe_and_the_list_of_models_on_a_terminal(capsys, monkeypatch):
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().err
    opened = []
    monkeypatch.setattr("moe_mlx.cli.on_terminal", lambda: True)
    monkeypatch.setattr("moe_mlx.commands.chat.run", lambda args: opened.append(args.home) or 0)
    assert main([]) == 0 and opened == [True]
