"""Counts what profiles save the demo model: misses with the right, a wrong and no profile, skill by skill.

Each skill's profile is made of its first held-out questions; the next ones are asked of a model that was loaded anew,
its slots warmed from a profile or empty. Counts only, so no other load on the machine changes them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import moe_mlx
from moe_mlx.conversation.session import Sampling, Session

HELDOUT = Path(__file__).parent / "demo" / "heldout"
SKILLS = ("stories", "arithmetic", "translation", "sorting", "spelling")
#: What is counted, and the conditions it is counted under.
COUNTS = ("experts warmed", "first prompt", "first decode", "all prompts", "all decode")
CONDITIONS = ("right", "wrong", "none")


def questions(skill: str) -> list[str]:
    """Returns the held-out questions of a skill."""
    name = "stories" if skill == "stories" else "prompts"
    rows = [json.loads(line) for line in (HELDOUT / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["prompt"] for row in rows if row.get("skill", skill) == skill]


def ask(cap: str, asked: list[str], history: Path | None, profile: str | None) -> list[float]:
    """Loads the demo anew, asks, and returns `COUNTS`."""
    model, tokenizer = moe_mlx.load(
        "demo",
        expert_cache=cap,
        routing="exact",
        decode="readback",
        history=history,
        profile=profile,
        warm="on" if history else "off",
        say=lambda line: None,
    )
    session = Session(model, tokenizer, Sampling(max_tokens=100))
    warmed, misses = session.runtime.warmed, []
    for text in asked:
        session.forget()
        for _ in session.answer(session.encode([{"role": "user", "content": text}])):
            pass
        assert session.last is not None
        misses.append((session.last.prefill.misses, session.last.decode.misses))
    session.runtime.close()
    return [warmed, *misses[0], *(sum(column) for column in zip(*misses, strict=True))]


def table(cap: str, skills: dict[str, dict[str, list[float]]]) -> str:
    """Returns one cap's figures."""
    lines = [f"\n{cap} of the experts; misses, `wrong` the mean of the other profiles\n"]
    lines.append(f"| skill | profile | {' | '.join(COUNTS)} |\n|---|---|{'---|' * len(COUNTS)}")
    sums = {name: [sum(row[name][i] for row in skills.values()) for i in range(len(COUNTS))] for name in CONDITIONS}
    for skill, rows in [*skills.items(), ("all", sums)]:
        lines += [f"| {skill} | {name} | {' | '.join(f'{n:,.0f}' for n in rows[name])} |" for name in CONDITIONS]
    return "\n".join(lines)


def main() -> None:
    """Prints one table a cap, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expert-cache", default="50%,25%", help="caps (default: 50%%,25%%)")
    parser.add_argument("--learn", type=int, default=20, help="questions that make a profile (default: 20)")
    parser.add_argument("--ask", type=int, default=4, help="questions asked of each fresh model (default: 4)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    told: dict[str, dict[str, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as name:
        profiles = Path(name)
        for skill in SKILLS:
            ask("50%", questions(skill)[: options.learn], profiles, skill)  # whole layers would count nothing
        before = {path: path.read_bytes() for path in profiles.rglob("*.json")}
        assert len(set(before.values())) == len(SKILLS)
        for cap in options.expert_cache.split(","):
            for skill in SKILLS:
                asked = questions(skill)[options.learn : options.learn + options.ask]
                found: dict[str | None, list[float]] = {None: ask(cap, asked, None, None)}
                for profile in SKILLS:
                    found[profile] = ask(cap, asked, profiles, profile)
                    for path, data in before.items():  # what a run has learned must not help the next one
                        path.write_bytes(data)
                others = [found[other] for other in SKILLS if other != skill]
                wrong = [sum(column) / len(others) for column in zip(*others, strict=True)]
                told.setdefault(cap, {})[skill] = {"right": found[skill], "wrong": wrong, "none": found[None]}
            if not options.json:
                print(table(cap, told[cap]), flush=True)
    if options.json:
        print(json.dumps({"counts": COUNTS, "caps": told}))


if __name__ == "__main__":
    main()
