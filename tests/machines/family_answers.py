"""One short answer of each of several models, alone or as a rank of a group: a line of JSON a model, by rank 0.

python -m tests.machines.family_answers FOLDER FAMILY[=SPLIT] ... [-- arguments of moe-mlx generate]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from moe_mlx.commands import generate
from moe_mlx.conversation.joining import join
from moe_mlx.conversation.opening import open_session
from moe_mlx.conversation.session import Session
from moe_mlx.families.registry import families as every_family
from tests.machines.many_answers import one

PROMPT = "the fox and the dog and the fox"
CACHE_AWARE = {row.family for row in every_family() if row.cache_aware}


def answered(session: Session) -> list[dict[str, object]]:
    """Answers exactly, and by Cache-Prior where the family's router can; each from empty."""
    found = []
    for routing in ("exact", "cache-prior") if session.runtime.config["model_type"] in CACHE_AWARE else ("exact",):
        session.runtime.set_routing(routing=routing)
        session.runtime.reset()
        session.forget()
        found.append({"routing": routing, **one(session, PROMPT)})
    return found


def main() -> None:
    """Answers with one model after the other."""
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    folder, *families = sys.argv[1:cut]
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    for word in families:
        family, _, split = word.partition("=")
        words = ["--prompt", "-", "--no-history", "--model", str(Path(folder) / family), *sys.argv[cut + 1 :]]
        args = parser.parse_args(words)
        if args.parallel and split:
            args.split = split
        session = join(args, lambda line: print(line, file=sys.stderr)) if args.parallel else open_session(args)
        if session is None:
            continue
        print(json.dumps({"family": family, "answers": answered(session)}), flush=True)
        session.close()


if __name__ == "__main__":
    main()
