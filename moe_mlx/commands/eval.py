"""Measure what a cap and a routing policy cost in quality and save in reads, scored token by token at decode.

Each setting is compared with the fully resident exact run: perplexity and its change, KL divergence and top-1 agreement
of the next-token distributions, miss rate, bytes read a token, swapped share, how long experts stay, and exact-match
accuracy on tasks. Each document starts with an empty KV cache; residency and running ranges go on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_mlx.commands.grid_arguments import add_grid_arguments, add_light_arguments, add_scored_arguments
from moe_mlx.errors import UsageError
from moe_mlx.routing.names import AHEAD, BY_LAYER, DECODE_WAYS, DEFAULT_BEYOND, EASY, EXACT, LATE, REFUSED, SCORED
from moe_mlx.store.demo import DEMO
from moe_mlx.system.given import check_whole

if TYPE_CHECKING:
    from moe_mlx.evaluation.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx eval`."""
    add = parser.add_argument
    add("--model", default=DEMO, help="a store, an MLX checkpoint, a hub repository, or demo (default: %(default)s)")
    add("--revision", help="branch, tag or commit of a hub repository")
    add("--trust-remote-code", action="store_true", help="let a model bring its own code")
    add("--decode", choices=DECODE_WAYS, default="auto", help="as for generate (default: auto)")
    add(
        "--against",
        metavar="MODEL",
        help="compare with another model's exact run instead of this one's own: with what a store of fewer bits was "
        "made of; both must make the same tokens of the text",
    )
    add("--data", default=DEMO, help="a text file, a .jsonl file with a text a line, or demo (default: %(default)s)")
    add("--tasks", help="JSONL of prompt and answer, demo, or none (default: demo for the demo's data, else none)")
    add_grid_arguments(parser, SCORED)
    add_scored_arguments(parser)
    add_light_arguments(parser)
    add(
        "--fit-light",
        metavar="TEXT",
        help="fit a threshold to each layer on another text, at the first cap, and keep them beside the verdicts; "
        f"--light-beyond {BY_LAYER} evaluates them",
    )
    add("--profile", metavar="NAME", help=f"keep the fit with a task's profile, or take its for {BY_LAYER}")
    add("--limit-tokens", type=int, metavar="N", help="score at most N tokens")
    add("--limit-tasks", type=int, metavar="N", help="ask at most N tasks, evenly spread over the file")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--csv", type=Path, metavar="FILE", help="write the rows as CSV too")
    add(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw the trade-off as .svg or .png (needs the extra `plot`); with light experts that do not wait, or "
        f"{AHEAD} or {EASY}, divergence against bytes and blocking misses; with --resume, of all that FILE holds",
    )
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="record scores and choices as .npz for `moe-mlx simulate`: of the setting if there is one, else of the "
        "exact reference run",
    )
    add("--resume", type=Path, metavar="FILE", help="keep results in FILE, and go on from those that are there")


def run(args: argparse.Namespace) -> int:
    """Runs `moe-mlx eval`."""
    from moe_mlx.evaluation.arguments import checked_grid, fit_to_model
    from moe_mlx.expert_cache.eviction import make_eviction
    from moe_mlx.history.profiles import check_profile

    grid = checked_grid(args)
    if args.against is not None and (args.trace is not None or "belady" in grid.routings):
        raise UsageError(
            "--against compares with another model's run: leave --trace and belady, which need this one's, out"
        )
    if grid.fitted and len(grid.caches) > 1 and args.fit_light:
        raise UsageError("--fit-light fits at one cap: give one to --expert-cache")
    if args.fit_light and not (grid.fitted and LATE in grid.lights):
        raise UsageError(
            f"--fit-light goes with --light {EXACT},{LATE} --light-beyond {BY_LAYER}, which evaluates the fit"
        )
    if check_profile(args.profile) is not None and not grid.fitted:
        raise UsageError(f"--profile is whose thresholds --light-beyond {BY_LAYER} takes: give both")
    for name in grid.evictions:
        make_eviction(name)  # a replay knows more of them than the runtime
    for name in ("limit_tokens", "limit_tasks"):
        if getattr(args, name) is not None:
            check_whole(f"--{name.replace('_', '-')}", getattr(args, name))
    for path in (args.csv, args.plot, args.trace, args.resume):
        if path is not None and not path.resolve().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}")
    if args.plot is not None:
        from moe_mlx.system.plots import check_plot

        check_plot(args.plot)
    from contextlib import ExitStack

    from moe_mlx.evaluation.documents import digest_of, encode, read_tasks, read_texts, spread

    texts = read_texts(args.data)
    wanted = args.tasks or (DEMO if args.data == DEMO else "none")
    tasks = [] if wanted == "none" else spread(read_tasks(wanted), args.limit_tasks)

    from moe_mlx.evaluation.against import identity_at, said_by
    from moe_mlx.evaluation.light_fit import THRESHOLDS
    from moe_mlx.evaluation.progress import Progress
    from moe_mlx.evaluation.results import Report
    from moe_mlx.evaluation.run import Evaluation
    from moe_mlx.evaluation.scoring import PROTOCOL
    from moe_mlx.evaluation.table import results_table, write_csv
    from moe_mlx.evaluation.verdict import verdict_lines, verdicts_of
    from moe_mlx.history.verdicts import keep_verdicts
    from moe_mlx.loading.attachment import runtime_of
    from moe_mlx.loading.light_remark import why_no_effect
    from moe_mlx.loading.loader import load
    from moe_mlx.store.identity import identity_of

    model, tokenizer = load(
        args.model,
        expert_cache=grid.caches[0],
        routing="exact",
        decode=args.decode,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        say=lambda line: print(line, file=sys.stderr),
    )
    runtime = runtime_of(model)
    layers = runtime.source.layers
    if args.trace is not None and runtime.source.bits:
        raise UsageError(
            "--trace: a replay counts every expert's bytes alike, and those of this store differ; record its source"
        )
    top_k, experts = max(layer.top_k for layer in layers), max(layer.experts for layer in layers)
    settings = fit_to_model(grid, args.sweep, top_k, experts).settings(top_k)
    if not runtime.layers.routed and any(
        setting.routing not in ("exact", "belady") or setting.quality for setting in settings
    ):
        family = runtime.config.get("model_type", "this family")
        raise UsageError(f"{family}: this model's router is not known; evaluate --routing exact,belady")
    if why := next(filter(None, (why_no_effect(runtime, setting.light_rule) for setting in settings)), ""):
        raise UsageError(f"--light has no effect on this model: {why}")
    if args.trace is not None and len(settings) == 1 and settings[0].routing in (AHEAD, EASY):
        raise UsageError(f"--trace keeps what can be replayed, and {settings[0].routing} cannot: leave one of them out")
    documents = encode(texts, tokenizer, args.limit_tokens)
    scored = sum(len(document) - 1 for document in documents)
    name = Path(args.model).name
    digest = digest_of(documents, tasks)
    data = digest if args.against is None else f"{digest} against {identity_at(args.against)}"
    report = Report(identity_of(runtime.source), name, data, scored, len(tasks), PROTOCOL)
    if args.resume is not None:
        report.resume(args.resume)
    progress = Progress((2 + len(THRESHOLDS) if args.fit_light else 0) + 1 + len(settings))
    stack = ExitStack()
    try:
        by_layer: tuple[float, ...] = ()
        if grid.fitted:
            by_layer = _thresholds(args, model, tokenizer, progress, digest_of(documents, ()))
        evaluation = Evaluation(model, tokenizer, documents, tasks, report, progress, by_layer)
        if args.against is not None:
            evaluation.against = stack.enter_context(
                said_by(
                    args.against,
                    texts,
                    documents,
                    tasks,
                    report,
                    progress,
                    cache=grid.caches[0],
                    decode=args.decode,
                    limit=args.limit_tokens,
                )
            )
        evaluation.run(settings, args.trace)
    except KeyboardInterrupt:
        progress.finish()
        done = sum(setting.key in report.rows for setting in settings)
        kept = f"kept in {args.resume}" if args.resume is not None else "not kept: --resume FILE keeps them"
        print(f"{done} of {len(settings)} settings done, {kept}", file=sys.stderr)
        raise
    finally:
        progress.finish()
        stack.close()
        runtime.close()
    keys = [setting.key for setting in settings]
    rows = [report.rows[key] for key in keys]
    assert report.reference is not None
    if args.against is None and (verdicts := verdicts_of(rows)):  # they are of a model beside itself
        try:
            keep_verdicts(report.model, verdicts)
        except (OSError, RuntimeError) as error:
            print(f"what was found is not kept: {error}", file=sys.stderr)
    if args.csv is not None:
        write_csv(args.csv, report.reference, rows)
    if args.plot is not None:
        drawn = rows if args.resume is None else list(report.rows.values())
        if any(row.light != EXACT or row.routing in (AHEAD, EASY) for row in drawn):
            from moe_mlx.evaluation.light_plot import draw_light as draw
        else:
            from moe_mlx.evaluation.plot import draw

        draw(
            args.plot,
            report.reference,
            [row for row in drawn if not row.quality and row.routing not in REFUSED],
            title=name,
        )
    if args.json:
        print(json.dumps(report.as_dict(keys), indent=1))
    else:
        beside = f" beside {Path(args.against).name}" if args.against is not None else ""
        print(f"{name}{beside}: {scored:,} tokens, {len(tasks)} tasks; {PROTOCOL}", file=sys.stderr)
        print(results_table(report.reference, rows, precise=args.against is not None))
    for line in verdict_lines(rows) if args.against is None else ():
        print(line, file=sys.stderr)
    return 0


def _thresholds(
    args: argparse.Namespace, model: Any, tokenizer: Any, progress: Progress, data: str
) -> tuple[float, ...]:
    """Fits thresholds by layer, or returns those that were kept; never ones that were fitted on the data itself."""
    from moe_mlx.evaluation.light_fit import fit
    from moe_mlx.history.file import AUTO, NoHistoryError, check_history
    from moe_mlx.history.light_fits import keep_fit, read_fit
    from moe_mlx.history.profiles import profile_path
    from moe_mlx.loading.attachment import runtime_of
    from moe_mlx.routing.light import LightRule
    from moe_mlx.store.identity import identity_of

    runtime, rule = runtime_of(model), LightRule(LATE, DEFAULT_BEYOND)
    identity = identity_of(runtime.source)
    place = None
    if args.profile is not None:
        if (folder := check_history(AUTO)) is None:
            raise UsageError(
                "$MOE_MLX_HISTORY is off, so there are no profiles: leave --profile out, or set it to a folder"
            )
        try:
            place = profile_path(folder, args.profile, identity)
        except NoHistoryError as error:
            raise UsageError(f"no profiles: {error}") from None
    whose = "of this model" if args.profile is None else f"in the profile {args.profile}"
    if args.fit_light:
        found = fit(model, tokenizer, args.fit_light, args.limit_tokens, progress, rule)
        try:
            keep_fit(identity, found, place)
        except (OSError, RuntimeError) as error:
            print(f"the fit is not kept: {error}", file=sys.stderr)
    else:
        kept = read_fit(identity, rule.mode, rule.beyond, rule.distance, len(runtime.layers), place)
        if kept is None:
            raise UsageError(f"no fit {whose} is kept for --light-beyond {BY_LAYER}: --fit-light TEXT makes one")
        found = kept
    if found.data == data:
        raise UsageError("thresholds are not judged on the text that they were fitted on: give another to --data")
    shown = " ".join(f"{share:g}" for share in found.by_layer)
    print(f"thresholds by layer, fitted on {found.tokens:,} tokens at {found.cache}: {shown}", file=sys.stderr)
    return found.by_layer
