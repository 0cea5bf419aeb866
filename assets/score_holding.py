"""Counts what a held quality comes to, text by text, beside fixed settings that would keep the same budget.

Without texts it takes three kinds of the demo's held-out ones. They are conversations: answers are decoded, and what
the user says is read as a prompt, as in a chat. `--as text` decodes every token, as it does with texts of your own.
What the start rests on is measured on another text first (`--start`), as `moe-mlx eval` keeps it for a model; nothing
is read from or written to the user's own folder.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import moe_mlx
from moe_mlx.evaluation.documents import WINDOW, digest_of, encode, read_texts
from moe_mlx.evaluation.progress import Progress
from moe_mlx.evaluation.results import Report, Row
from moe_mlx.evaluation.run import Evaluation
from moe_mlx.evaluation.scoring import ANSWERS, PROTOCOL, Turns
from moe_mlx.evaluation.setting import Setting
from moe_mlx.evaluation.verdict import verdicts_of
from moe_mlx.history.verdicts import keep_verdicts
from moe_mlx.routing.price import read_quality
from moe_mlx.store.identity import identity_of
from moe_mlx.system.sizes import show_bytes

HELDOUT = Path(__file__).parent / "demo" / "heldout"
SUMS = ("arithmetic", "sorting", "reversing", "counting")
#: A budget is kept where the loss is at most this share of it away, either way.
KEPT = 0.1
#: Documents that are one chat, of about 1,000 tokens.
TOGETHER = 4
#: What the start is measured with.
STARTS = (0.05, 0.1)


def kinds() -> dict[str, list[str]]:
    """Returns documents of three kinds: with a story; ten exchanges each of sums and lists; the same of the rest."""
    rows = [json.loads(line) for line in (HELDOUT / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = (HELDOUT / "text.txt").read_text(encoding="utf-8").split("\n\n")
    found = {"stories": [one for one in documents if "story" in one.lower() or len(one) > 900]}
    for kind, wanted in (("sums", True), ("words", False)):
        asked = [row for row in rows if (row["skill"] in SUMS) == wanted]
        random.Random(0).shuffle(asked)
        said = [f"<|user|>{row['prompt']}<|end|><|assistant|>{row['answer']}<|end|>" for row in asked]
        found[kind] = ["".join(said[at : at + 10]) for at in range(0, len(said) - 9, 10)]
    return found


def fixed_setting(text: str, cache: str) -> Setting:
    """Reads `0.1`, or `0.14:1` with J = 1."""
    lam, _, top_j = text.partition(":")
    if not float(lam):
        return Setting(cache)
    return Setting(cache, "cache-prior", float(lam), int(top_j) if top_j else None)


def off(row: Row, quality: str) -> float:
    """Returns how far a row is from the budget, as a share of it: 0.1 is 10% too much."""
    wanted = read_quality(quality)
    return (row.kl if wanted.measure == "KL" else 1 - row.agreement) / wanted.budget - 1


def mean_bytes(rows: Sequence[Row]) -> float:
    """Returns bytes a token, looks and prompts included, over texts that count alike."""
    return sum(row.bytes_per_token + row.audit_bytes + row.prompt_bytes for row in rows) / len(rows)


def best_fixed(found: Mapping[str, Sequence[Row]], quality: str) -> str | None:
    """Returns the fixed setting that reads least among those that keep the budget on every text; None: there is none.

    Args:
        found: Setting -> its row of each text.
        quality: The budget.
    """
    keeps = [name for name, rows in found.items() if all(off(row, quality) <= 0 for row in rows)]
    return min(keeps, key=lambda name: mean_bytes(found[name]), default=None)


def judgement(held: Sequence[Row], fixed: Mapping[str, Sequence[Row]], quality: str) -> str:
    """Returns in two lines whether the budget was kept, and what was read beside the best fixed setting."""
    within = sum(abs(off(row, quality)) <= KEPT for row in held)
    lines = [f"held at {quality}: within {KEPT:.0%} on {within} of {len(held)} texts"]
    looks = sum(row.audit_bytes for row in held) / len(held)
    read = f"{show_bytes(mean_bytes(held))} a token, {show_bytes(looks)} of it for looks"
    if prompts := sum(row.prompt_bytes for row in held) / len(held):
        read += f" and {show_bytes(prompts)} by prompts"
    best = best_fixed(fixed, quality)
    if best is None:
        lines.append(f"it reads {read}; no fixed setting that was tried keeps it on every text")
    else:
        beside = mean_bytes(fixed[best])
        change = mean_bytes(held) / beside - 1
        lines.append(
            f"it reads {read}; {best}, the best fixed that keeps it everywhere, {show_bytes(beside)}: {change:+.1%}"
        )
    return "\n".join(lines)


def table(name: str, rows: Mapping[str, Row], qualities: Sequence[str]) -> str:
    """Returns the figures of one text as a table."""
    lines = [
        f"\n{name}\n",
        "| setting | KL | off | top-1 | read a token | for looks | by prompts |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, row in rows.items():
        far = (
            f"{off(row, row.quality):+.0%}" if row.quality else ", ".join(f"{off(row, one):+.0%}" for one in qualities)
        )
        looks = show_bytes(row.audit_bytes) if row.quality else ""
        cells = (setting, f"{row.kl:.2g} ± {row.kl_error:.1g}", far, f"{row.agreement:.1%}")
        prompts = show_bytes(row.prompt_bytes) if row.prompt_bytes else ""
        lines.append(f"| {' | '.join(cells)} | {show_bytes(row.bytes_per_token)} | {looks} | {prompts} |")
    return "\n".join(lines)


def main() -> None:
    """Prints a table a text and a judgement a budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("texts", nargs="*", help="text or .jsonl files (default: three kinds of the demo's held-out text)")
    add("--model", default="demo")
    add("--quality", default="0.002,0.001", help="budgets (default: %(default)s)")
    add("--fixed", default="0,0.07,0.1,0.1:1,0.14:1,0.2:1", help="lambdas, :1 for J = 1; none (default: %(default)s)")
    add("--start", default="demo", help="text that the start is measured on, or none (default: %(default)s)")
    add("--expert-cache", default="50%")
    add("--limit-tokens", type=int, default=1000, help="decoded, of each text (default: %(default)s)")
    add("--start-tokens", type=int, help="of the text that the start is measured on (default: as many)")
    add("--as", dest="form", choices=("chat", "text"), help="what of a text is decoded (default: chat for the demo's)")
    add("--decode", default="readback")
    add("--resume", type=Path, metavar="FOLDER", help="keep each text's results there, and go on from them")
    add("--json", action="store_true")
    options = parser.parse_args()
    texts = {Path(text).stem: read_texts(text) for text in options.texts} or kinds()
    form = options.form or ("text" if options.texts else "chat")
    qualities = options.quality.split(",")
    fixed = [] if options.fixed == "none" else options.fixed.split(",")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        cap = options.expert_cache
        model, tokenizer = moe_mlx.load(options.model, expert_cache=cap, routing="exact", decode=options.decode)
        identity = identity_of(moe_mlx.runtime_of(model).source)
        chat = Turns(*tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])) if form == "chat" else None

        def measured(
            name: str, documents: Sequence[str], settings: dict[str, Setting], limit: int, turns: Turns | None
        ) -> dict[str, Row]:
            if turns is None:
                encoded = encode(documents, tokenizer, limit)
                tokens = sum(len(one) - 1 for one in encoded)
            else:
                chats = ["".join(documents[at : at + TOGETHER]) for at in range(0, len(documents), TOGETHER)]
                encoded = turns.first(encode(chats, tokenizer, None, WINDOW * TOGETHER), limit)
                tokens = sum(sum(turns.decoded(one[:-1])) for one in encoded)
            protocol = PROTOCOL if turns is None else ANSWERS
            report = Report(identity, Path(options.model).name, digest_of(encoded, ()), tokens, 0, protocol)
            if options.resume is not None:
                report.resume(options.resume / f"{name}{'' if turns is None else '-chat'}.json")
            progress = Progress(1 + len(settings))
            try:
                Evaluation(model, tokenizer, encoded, (), report, progress, turns=turns).run(list(settings.values()))
            finally:
                progress.finish()
            return {called: report.rows[setting.key] for called, setting in settings.items()}

        if options.start != "none":
            starts = {f"{lam:g}": Setting(cap, "cache-prior", lam) for lam in STARTS}
            judged = {document for documents in texts.values() for document in documents}
            others = [document for document in read_texts(options.start) if document not in judged]
            tokens = options.start_tokens or options.limit_tokens
            keep_verdicts(identity, verdicts_of(list(measured("start", others, starts, tokens, None).values())))
        settings = {f"lambda {one}": fixed_setting(one, cap) for one in fixed}
        settings |= {f"held at {one}": Setting(cap, quality=one) for one in qualities}
        found: dict[str, dict[str, Row]] = {}
        for name, documents in texts.items():
            found[name] = measured(name, documents, settings, options.limit_tokens, chat)
            if not options.json:
                print(table(name, found[name], qualities), flush=True)
    told: dict[str, Any] = {name: {key: asdict(row) for key, row in rows.items()} for name, rows in found.items()}
    by_setting = {f"lambda {one}": [rows[f"lambda {one}"] for rows in found.values()] for one in fixed}
    lines = [judgement([rows[f"held at {one}"] for rows in found.values()], by_setting, one) for one in qualities]
    print(json.dumps({"texts": told, "judged": lines}) if options.json else "\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
