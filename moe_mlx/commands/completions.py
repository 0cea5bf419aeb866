"""Print shell completions: verbs, their options, and the values that an option chooses from.

bash: eval "$(moe-mlx completions bash)"; zsh: the same with zsh; fish: moe-mlx completions fish | source. Put the line
in your shell's start-up file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

from moe_mlx.commands.verbs import VERBS

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a verb: its spellings, what it is for, what it chooses from, whether a value follows."""

    names: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes_value: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the shell."""
    parser.add_argument("shell", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    verbs = described_verbs()
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](verbs))
    return 0


def described_verbs() -> dict[str, tuple[str, list[Option]]]:
    """Returns each verb with its line of help and its options, read off the parsers themselves."""
    found = {}
    for verb, line in VERBS.items():
        parser = argparse.ArgumentParser(prog=f"moe-mlx {verb}")
        import_module(f"moe_mlx.commands.{verb}").add_arguments(parser)
        found[verb] = (line, list(_options(parser)))
    return found


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS:
            text = " ".join((action.help or "").replace("%%", "%").split())
            yield Option(
                tuple(action.option_strings),
                text.partition(";")[0].partition(":")[0],
                tuple(map(str, action.choices or ())),
                action.nargs != 0,
            )


_BASH = """\
_moe_mlx() {{
  local now="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}" words=""
  if [ "$COMP_CWORD" -eq 1 ] || {{ [ "$COMP_CWORD" -eq 2 ] && [ "$verb" = help ]; }}; then
    COMPREPLY=($(compgen -W '{verbs} --help --version' -- "$now")); return
  fi
  case "$verb:$before" in
{values}
  esac
  case "$verb" in
{words}
  esac
  case "$now" in
    -*) COMPREPLY=($(compgen -W "$words" -- "$now")) ;;
    *) COMPREPLY=($(compgen -f -- "$now")) ;;
  esac
}}
complete -o filenames -F _moe_mlx moe-mlx"""

_ZSH = """\
#compdef moe-mlx
_moe_mlx() {{
  local -a verbs
  verbs=(
{verbs}
    'help:explain a verb'
  )
  if (( CURRENT == 2 )) || {{ (( CURRENT == 3 )) && [[ $words[2] == help ]]; }}; then
    _describe verb verbs; return
  fi
  local verb=$words[2]; shift words; (( CURRENT-- ))
  case $verb in
{options}
  esac
}}
compdef _moe_mlx moe-mlx"""


def _quoted(text: str) -> str:
    return text.replace("\\", "").replace("'", "").replace("[", "(").replace("]", ")")


def _bash(verbs: dict[str, tuple[str, list[Option]]]) -> str:
    cases, values = [], []
    for verb, (_, options) in verbs.items():
        cases.append(f"    {verb}) words='{' '.join(name for option in options for name in option.names)}' ;;")
        values += [
            f"    {verb}:{name}) COMPREPLY=($(compgen -W '{' '.join(option.choices)}' -- \"$now\")); return ;;"
            for option in options
            if option.choices
            for name in option.names
        ]
    return _BASH.format(verbs=" ".join([*verbs, "help"]), values="\n".join(values), words="\n".join(cases))


def _zsh(verbs: dict[str, tuple[str, list[Option]]]) -> str:
    described = "\n".join(f"    '{verb}:{_quoted(line)}'" for verb, (line, _) in verbs.items())
    cases = []
    for verb, (_, options) in verbs.items():
        specs = []
        for option in options:
            value = f":value:({' '.join(option.choices)})" if option.choices else ":value:_files"
            tail = value if option.takes_value else ""
            specs += [f"'{name}[{_quoted(option.help)}]{tail}'" for name in option.names]
        cases.append(f"    {verb}) _arguments {' '.join(specs)} '*:file:_files' ;;")
    return _ZSH.format(verbs=described, options="\n".join(cases))


def _fish(verbs: dict[str, tuple[str, list[Option]]]) -> str:
    lines = ["complete -c moe-mlx -n __fish_use_subcommand -a help -d 'explain a verb'"]
    for verb, (line, options) in verbs.items():
        lines.append(f"complete -c moe-mlx -n __fish_use_subcommand -a {verb} -d '{_quoted(line)}'")
        for option in options:
            names = " ".join(f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names)
            value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r" if option.takes_value else ""
            seen = f"-n '__fish_seen_subcommand_from {verb}'"
            lines.append(f"complete -c moe-mlx {seen} {names}{value} -d '{_quoted(option.help)}'")
    return "\n".join(lines)
