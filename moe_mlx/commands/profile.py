"""List, export, import and remove profiles: the histories by task that `--profile NAME` keeps.

A profile holds counts alone (which experts of each layer were used), one small file a model, and beside them the
thresholds of light experts that `moe-mlx eval --fit-light TEXT --profile NAME` fitted for the task. `moe-mlx profile
export coding > coding.json` makes a file of it that `moe-mlx profile import coding.json` takes on another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moe_mlx.errors import UsageError, one_line

if TYPE_CHECKING:
    from moe_mlx.history.profiles import Profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what can be done with profiles."""
    verbs = parser.add_subparsers(dest="what", metavar="{list,export,import,remove}", required=True)
    _add_list(verbs.add_parser("list", help="what is kept", description="Which profiles are kept, of which models."))
    export = verbs.add_parser("export", help="make a file of one", description="Prints a profile, or writes a file.")
    export.add_argument("name", metavar="NAME")
    export.add_argument("file", metavar="FILE", nargs="?", help="a new file (default: standard output)")
    _add_place(export, "of this model, where the profile holds several")
    taken = verbs.add_parser("import", help="keep a file", description="Keeps what `export` wrote.")
    taken.add_argument("file", metavar="FILE")
    taken.add_argument("--name", metavar="NAME", help="keep it under this name (default: the file's own)")
    taken.add_argument("--replace", action="store_true", help="in place of one of that name")
    _add_place(taken, "refuse a file that is not of this model")
    remove = verbs.add_parser("remove", help="forget one", description="Removes a profile, of every model or of one.")
    remove.add_argument("name", metavar="NAME")
    _add_place(remove, "of this model alone")


def _add_list(parser: argparse.ArgumentParser) -> None:
    _add_place(parser, "those of this model alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_place(parser: argparse.ArgumentParser, use: str) -> None:
    parser.add_argument("--model", metavar="MODEL", help=use)
    parser.add_argument("--history", metavar="FOLDER", help="where they are kept (default: the user's cache folder)")


def run(args: argparse.Namespace) -> int:
    """Does what was asked."""
    from moe_mlx.history.file import AUTO, NoHistoryError, check_history
    from moe_mlx.history.profiles import check_profile, import_profile, profiles_of

    folder = check_history(args.history or AUTO)
    if folder is None:
        raise UsageError("$MOE_MLX_HISTORY is off, so there are no profiles: name a folder with --history")
    check_profile(getattr(args, "name", None))
    model = None if args.model is None else _identity(args.model)
    try:
        if args.what == "import":
            kept = import_profile(folder, Path(args.file), name=args.name, model=model, replace=args.replace)
            print(f"profile {kept.name} of the model {kept.model}: {one_line(kept.path)}", file=sys.stderr)
            return 0
        found = profiles_of(folder, getattr(args, "name", None), model)
    except NoHistoryError as error:
        raise UsageError(f"no profiles: {error}") from None
    if args.what == "list":
        return _list(found, as_json=args.json)
    if not found:
        raise UsageError(f"no profile {args.name}{' of this model' if model else ''}: `moe-mlx profile list` has all")
    return _export(found, args.file) if args.what == "export" else _remove(found)


def _identity(model: str) -> str:
    from moe_mlx.store import open_source
    from moe_mlx.store.identity import identity_of
    from moe_mlx.store.resolve import resolve

    with open_source(resolve(model, cached=True).resolve(), verify=False) as source:
        return identity_of(source)


def _list(found: list[Profile], *, as_json: bool) -> int:
    from moe_mlx.system.table import render

    rows = [profile.as_json() for profile in found]
    if as_json:
        print(json.dumps({"profiles": rows}))
        return 0
    if not rows:
        print("no profiles: `moe-mlx chat --profile NAME` begins one", file=sys.stderr)
        return 0
    cells = []
    for row in rows:
        experts = sorted(set(row["experts"]))
        shape = f"{len(row['experts'])} x {'-'.join(map(str, experts))}" if experts else "-"
        uses = [f"{row[name]:,.0f}" for name in ("decode_uses", "prompt_uses")]
        cells.append([row["profile"], row["model"], shape, *uses, str(row["light_fits"] or "")])
    head = ["profile", "model's identity", "experts", "uses at decode", "in prompts", "light fits"]
    print(render(head, cells, left=2))
    for profile in found:
        if profile.problem:
            print(f"{one_line(profile.path)} is no history of its model: {one_line(profile.problem)}", file=sys.stderr)
    return 0


def _export(found: list[Profile], file: str | None) -> int:
    from moe_mlx.history.profiles import exported
    from moe_mlx.system.whole_files import write_whole

    if len(found) > 1:
        models = ", ".join(profile.model for profile in found)
        raise UsageError(f"profile {found[0].name} holds {len(found)} models ({models}): choose one with --model")
    (profile,) = found
    if profile.history is None:
        raise UsageError(f"{profile.path} is no history: {profile.problem}. `moe-mlx profile remove` forgets it")
    text = exported(profile)
    if file is None:
        sys.stdout.write(text)
        return 0
    if os.path.lexists(file):
        raise UsageError(f"{file} is there already: name a new file")
    write_whole(Path(file), text, private=True)
    return 0


def _remove(found: list[Profile]) -> int:
    from moe_mlx.history.profiles import remove_profile

    for profile in found:
        remove_profile(profile)
        print(f"removed {profile.name} of the model {profile.model}", file=sys.stderr)
    return 0
