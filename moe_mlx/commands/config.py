"""Show the config file's path and every setting that is in force, with where each comes from.

Flags win over the environment (MOE_MLX_EXPERT_CACHE and so on), the environment over the file. `chat`, `generate` and
`serve` take them; verbs that measure take none.
"""

from __future__ import annotations

import argparse
import json

from moe_mlx.errors import one_line

EXAMPLE = """\
# for example:
#   folders = ["~/models"]
#   expert_cache = "50%"
#   routing = "cache-prior"
#   theme = "ember"
#   system_prompt = "Be brief."
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's options."""
    parser.add_argument("--path", action="store_true", help="print the path alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prints path and values."""
    from moe_mlx.catalogue.found import DEFAULT_FOLDERS
    from moe_mlx.system.config import KEYS, PREFIX, config_path, defaults
    from moe_mlx.system.table import render

    path = config_path()
    if args.path:
        print(path)
        return 0
    found = defaults()
    if args.json:
        values = {name: {"value": default.value, "origin": default.origin} for name, default in found.items()}
        print(json.dumps({"path": str(path), "exists": path.is_file(), "values": values}))
        return 0
    print(f"{one_line(path)}{'' if path.is_file() else ' (not there yet)'}\n")
    rows = []
    for name, (_, what) in KEYS.items():
        default = found.get(name)
        value = "-" if default is None else one_line(json.dumps(default.value, ensure_ascii=False))
        if default is None and name == "folders":
            value = json.dumps(list(DEFAULT_FOLDERS))
        origin = "" if default is None else "file" if default.origin == str(path) else f"${PREFIX}{name.upper()}"
        rows.append([name, value, origin, what])
    print(render(["setting", "value", "from", "what it is for"], rows, left=4))
    if not path.is_file():
        print(f"\n{EXAMPLE}", end="")
    return 0
