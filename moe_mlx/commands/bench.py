"""Measure decode and prefill against mlx-lm itself, in one run, over caps, policies, ways to decode and to read.

`moe-mlx bench io MODEL` measures the disk alone, `moe-mlx bench batch MODEL` decode of several rows at once, `moe-mlx
bench tui` the terminal app, `moe-mlx bench soak` whether its memory stays flat; `moe-mlx bench compare A.json B.json`
finds regressions. Random prompts say nothing about hit rates of real use: give a text with --prompt-file; every setting
then decodes along it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from moe_mlx.commands.bench_batch import add_batch_arguments, run_batch
from moe_mlx.commands.bench_tui import add_soak_arguments, add_tui_arguments, run_soak, run_tui
from moe_mlx.commands.model_arguments import add_readers_argument
from moe_mlx.errors import UsageError
from moe_mlx.routing.names import DEFAULT_BEYOND, DEFAULT_DISTANCE, EXACT, LIGHTS
from moe_mlx.system.given import check_whole, split_list
from moe_mlx.system.plots import check_plot


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx bench` and of what it can do besides."""
    parser.add_argument("--model", default="demo", help="store, MLX checkpoint folder, or hub repository")
    parser.add_argument("--prompt-tokens", "-p", type=int, default=512, help="length of the prompt (default: 512)")
    parser.add_argument("--generation-tokens", "-g", type=int, default=128, help="tokens to decode (default: 128)")
    parser.add_argument("--num-trials", "-n", type=int, default=5, help="timed trials of each setting (default: 5)")
    parser.add_argument("--prefill-step-size", type=int, default=2048, help="prompt tokens at a time (default: 2048)")
    parser.add_argument("--prompt-file", type=Path, help="a text to prefill and to decode along")
    sweep = parser.add_argument_group("what to sweep (lists, separated by commas)")
    sweep.add_argument("--expert-cache", metavar="CAPS", default="25%,50%,100%", help="(default: %(default)s)")
    sweep.add_argument("--routing", metavar="POLICIES", default="exact,cache-prior", help="(default: %(default)s)")
    sweep.add_argument("--route-lambda", metavar="L", default="0.1", help="strengths of cache-prior (default: 0.1)")
    sweep.add_argument("--light", metavar="MODES", default=EXACT, help=f"{', '.join(LIGHTS)} (default: {EXACT})")
    sweep.add_argument("--light-beyond", metavar="B", default=f"{DEFAULT_BEYOND}", help="(default: %(default)s)")
    sweep.add_argument("--light-distance", metavar="D", default=f"{DEFAULT_DISTANCE}", help="(default: %(default)s)")
    sweep.add_argument(
        "--decode",
        metavar="WAYS",
        default="auto",
        help="auto, native, readback, apart (native on a stream of its own) (default: auto)",
    )
    sweep.add_argument("--prefetch", metavar="WAYS", default="off", help="off, on, auto (default: off)")
    sweep.add_argument("--io", metavar="WAYS", default="cached", help="cached, direct (default: cached)")
    sweep.add_argument(
        "--page-cache",
        metavar="STATES",
        default="warm",
        help="warm, cold (emptied before a trial), dropped (after each token too) (default: warm)",
    )
    base = parser.add_argument_group("baseline")
    base.add_argument(
        "--baseline",
        choices=("auto", "mlx-lm", "self", "none"),
        default="auto",
        help="mlx-lm with everything resident, ourselves at 100%%, or none (default: mlx-lm where it fits)",
    )
    base.add_argument("--baseline-model", type=Path, help="checkpoint for mlx-lm, where --model is a store")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--json", metavar="FILE", help="write the result as JSON; - for standard output instead of a table"
    )
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw it as .png, .svg or .pdf (needs the extra `plot`)")
    out.add_argument("--calibrate", action="store_true", help="keep this machine's measured rates for `moe-mlx plan`")
    out.add_argument("--profile", action="store_true", help="list Python time per token and layer of each setting")
    add_readers_argument(parser)
    parser.add_argument(
        "--prefetch-extra", type=int, default=0, metavar="A", help="experts to guess beyond top_k (default: 0)"
    )
    parser.add_argument("--max-kv-size", type=int, help="tokens of KV cache that the plan leaves room for")
    parser.add_argument("--no-verify", action="store_true", help="do not check digests when experts are read")
    parser.add_argument("--trust-remote-code", action="store_true", help="allow code that the model brings")
    verbs = parser.add_subparsers(dest="what", metavar="{io,batch,compare,tui,soak}", title="besides")
    _add_io(verbs.add_parser("io", help="the disk alone", description="Plain preadv, our demand path and mx.load."))
    add_batch_arguments(verbs.add_parser("batch", help="several rows at once", description=run_batch.__doc__))
    _add_compare(verbs.add_parser("compare", help="find regressions", description="Exit code 1 on a regression."))
    add_tui_arguments(verbs.add_parser("tui", help="what the terminal app costs", description=run_tui.__doc__))
    add_soak_arguments(verbs.add_parser("soak", help="the app for minutes by itself", description=run_soak.__doc__))


def _add_io(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("io_model", metavar="MODEL", help="store or MLX checkpoint folder")
    parser.add_argument("--threads", default="1,2,4,8,16", help="reader counts (default: %(default)s)")
    parser.add_argument("--batch", type=int, help="experts that one event reads (default: the model's top_k)")
    parser.add_argument("--bytes", default="512MB", help="size of the sample (default: %(default)s)")
    parser.add_argument("--page-cache", default="cold,warm", help="of cached reads (default: %(default)s)")
    parser.add_argument(
        "--io", metavar="WAYS", default="cached,direct", help="cached, direct (always cold) (default: %(default)s)"
    )
    parser.add_argument("--num-trials", "-n", type=int, default=3, help="(default: 3)")
    parser.add_argument("--calibrate", action="store_true", help="keep rates and reader count for `moe-mlx plan`")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for standard output")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", default="5%", help="loss that is no regression (default: 5%%)")
    parser.add_argument("--counts-only", action="store_true", help="leave speeds out, where machines are too noisy")


def run(args: argparse.Namespace) -> int:
    """Does what was asked."""
    if args.what is None:
        return _bench(args)
    return {"io": _io, "batch": run_batch, "compare": _compare, "tui": run_tui, "soak": run_soak}[args.what](args)


def _emit(described: dict[str, Any], table: str, target: str | None) -> None:
    if target == "-":
        print(json.dumps(described))
        return
    print(table)
    if target is not None:
        try:
            Path(target).write_text(json.dumps(described, indent=1) + "\n")
        except OSError as error:
            raise UsageError(f"--json {target}: {error.strerror}") from None


def _check_outputs(*paths: str | Path | None) -> None:
    """Finds out before minutes of measuring whether there is a folder for what comes of them."""
    for path in paths:
        if path is not None and path != "-" and not Path(path).resolve().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {Path(path).parent}")


def _bench(args: argparse.Namespace) -> int:
    from moe_mlx.benchmark.settings import sweep

    for name in ("prompt_tokens", "generation_tokens", "num_trials", "prefill_step_size"):
        check_whole(f"--{name.replace('_', '-')}", getattr(args, name))
    if args.generation_tokens < 2:
        raise UsageError("-g 1 times nothing: give 2 or more")
    _check_outputs(args.json)
    if args.plot is not None:
        check_plot(args.plot, (".png", ".svg", ".pdf"))
    settings = sweep(
        args.expert_cache,
        args.routing,
        args.route_lambda,
        args.decode,
        args.io,
        args.page_cache,
        args.prefetch,
        lights=args.light,
        beyonds=args.light_beyond,
        distances=args.light_distance,
    )

    from moe_mlx.system.calibration import read_calibration, readers_for

    readers = readers_for(args.readers)
    from moe_mlx.benchmark.grading import keep_rates
    from moe_mlx.benchmark.noise import noise
    from moe_mlx.benchmark.report import bench_table, plot
    from moe_mlx.benchmark.runner import Bench, run_bench
    from moe_mlx.planning.prediction import Predictor
    from moe_mlx.planning.shape import local_shape
    from moe_mlx.store.resolve import resolve
    from moe_mlx.system.talk import Talk

    talk = Talk()
    if args.prompt_file is None:
        talk.say("random prompt tokens: speeds hold, hit rates mean little; --prompt-file TEXT measures those")
    folder = resolve(args.model)
    options: dict[str, Any] = {
        "verify_reads": not args.no_verify,
        "trust_remote_code": args.trust_remote_code,
        "readers": readers,
        "prefetch_extra": args.prefetch_extra,
    }
    if args.max_kv_size is not None:
        options["max_kv_size"] = args.max_kv_size
    shape, calibration = local_shape(folder), read_calibration()
    bench = Bench(
        folder,
        tuple(settings),
        args.prompt_tokens,
        args.generation_tokens,
        args.num_trials,
        args.prompt_file,
        args.baseline,
        args.baseline_model,
        args.prefill_step_size,
        options,
        args.profile,
    )
    try:
        result = run_bench(
            bench,
            say=talk.say,
            progress=talk.progress,
            predictor=Predictor(shape, calibration) if calibration is not None else None,
        )
    finally:
        talk.clear()
    _emit(result.as_json(), bench_table(result), args.json)
    if args.json == "-" and (said := noise(result)):
        talk.say(said)
    if args.plot is not None:
        plot(result, args.plot)
    if args.calibrate:
        talk.say(keep_rates(result, shape))
    return 0


def _io(args: argparse.Namespace) -> int:
    from moe_mlx.store.access import DIRECT, IOS
    from moe_mlx.store.probe import use_io
    from moe_mlx.system.sizes import parse_size, show_bytes

    threads = sorted(split_list(args.threads, "--threads", int))
    if threads[0] < 1 or threads[-1] > 64 or args.num_trials < 1 or (args.batch is not None and args.batch < 1):
        raise UsageError("--threads takes 1 to 64; --batch and --num-trials 1 or more")
    temperatures = split_list(args.page_cache, "--page-cache", str, allowed=("warm", "cold"))
    ios = split_list(args.io, "--io", str, allowed=IOS)
    nbytes = parse_size(args.bytes)
    _check_outputs(args.json)

    from dataclasses import asdict

    from moe_mlx.benchmark.disk import DEMAND, DiskBench, enough_readers, measure
    from moe_mlx.benchmark.io_report import io_table
    from moe_mlx.benchmark.sample import sample_events
    from moe_mlx.store import open_source
    from moe_mlx.store.resolve import resolve
    from moe_mlx.system.calibration import calibration_path, store_calibration
    from moe_mlx.system.machine import describe_machine, machine_line
    from moe_mlx.system.talk import Talk

    talk, rows = Talk(), []
    with open_source(resolve(args.io_model)) as source:
        batch = args.batch or source.layers[0].top_k
        bench = DiskBench(source, sample_events(source, batch, nbytes))
        try:
            for io in ios:
                access = use_io(source, io)
                if access.way != io:
                    talk.say(f"no direct reads here, so these are {access.way}: {access.reason}")
                for temperature in ["cold"] if io == DIRECT else sorted(temperatures):
                    rows += measure(bench, threads, args.num_trials, cold=temperature == "cold", progress=talk.progress)
        finally:
            talk.clear()
        machine, digest_rate, readers = describe_machine(), bench.digest_rate(), enough_readers(rows)
        described = {
            "kind": "moe-mlx bench io",
            "version": 1,
            "machine": machine,
            "model": source.root.name,
            "batch": batch,
            "sample_bytes": bench.nbytes,
            "expert_bytes": bench.layer.expert_nbytes,
            "digest_bytes_per_second": digest_rate,
            "readers": readers,
            "rows": [asdict(row) for row in rows],
        }
        head = (
            f"{source.root.name}: {show_bytes(bench.nbytes)} of experts of {show_bytes(bench.layer.expert_nbytes)}, "
            f"{batch} at a time; {machine_line(machine)}\n{args.num_trials} trials, alternating, medians\n\n"
        )
    tail = (
        f"\n\n{readers} readers are enough here; XXH3-128 digests {digest_rate / 1e9:.1f} GB/s from memory, one thread"
    )
    _emit(described, head + io_table(rows) + tail, args.json)
    if args.calibrate:
        told = [row for row in rows if row.method == DEMAND and row.threads == readers]
        best = {row.cold: row.rate.median for row in told if row.io == told[0].io}
        store_calibration(
            date=machine["date"],
            machine=machine_line(machine),
            readers=readers,
            **({"cold_rate": best[True]} if True in best else {}),
            **({"warm_rate": best[False]} if False in best else {}),
        )
        talk.say(f"kept in {calibration_path()}: `moe-mlx plan --calibrated` reads it")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from moe_mlx.benchmark.compare import compare, parse_tolerance
    from moe_mlx.benchmark.report import compare_table
    from moe_mlx.benchmark.results import read_result

    tolerance = parse_tolerance(args.tolerance)
    changes = compare(read_result(args.before), read_result(args.after), tolerance, counts_only=args.counts_only)
    print(compare_table(changes))
    worse = sum(change.worse for change in changes)
    if worse:
        print(f"{worse} of {len(changes)} figures lost more than {tolerance:.0%}", file=sys.stderr)
    return 1 if worse else 0
