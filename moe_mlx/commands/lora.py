"""Train a LoRA adapter under the cap: attention, router and dense weights learn, experts are frozen and streamed.

Every other option is mlx_lm.lora's own, with its meaning and default: --train, --test, --data FOLDER, --adapter-path
FOLDER, --iters N, --batch-size N, --num-layers N, --learning-rate R, --config FILE; `mlx_lm.lora --help` lists them.
The adapter that comes out runs with --adapter-path, here and in mlx-lm. Activations are not in the memory plan: begin
with --batch-size 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout

from moe_mlx.commands.model_arguments import add_readers_argument
from moe_mlx.store.access import CACHED, IOS
from moe_mlx.store.demo import DEMO
from moe_mlx.system.calibration import readers_for

#: What is not known here is mlx_lm.lora's.
TAKES_REST = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `moe-mlx lora`."""
    add = parser.add_argument
    add("--model", default=DEMO, help="a store, an MLX checkpoint, a hub repository, or demo (default: %(default)s)")
    add("--revision", help="branch, tag or commit of a hub repository")
    add("--trust-remote-code", action="store_true", help="allow code that the model or tokenizer brings")
    add("--expert-cache", metavar="CAP", help="as for generate (default: auto; 50%% for the demo)")
    add_readers_argument(parser)
    add("--io", choices=IOS, default=CACHED, help="as for generate (default: %(default)s)")
    add("--json", action="store_true", help="print one JSON object when it is done, instead of the adapter's folder")
    parser.allow_abbrev = False  # a prefix of ours may be an option of theirs


def run(args: argparse.Namespace) -> int:
    """Runs `moe-mlx lora`."""
    from moe_mlx.loading.attachment import runtime_of
    from moe_mlx.loading.loader import load
    from moe_mlx.training.adapter import Losses, check_targets, run_lora, settings_from

    settings = settings_from(args.rest, args.model, "moe-mlx lora")
    settings.trust_remote_code = args.trust_remote_code
    losses = Losses()
    with redirect_stdout(sys.stderr):  # mlx-lm talks on standard output
        model, tokenizer = load(
            args.model,
            expert_cache=args.expert_cache,
            routing="exact",
            decode="readback",  # nothing here is a decode step
            readers=readers_for(args.readers),
            io=args.io,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            say=lambda line: print(line, file=sys.stderr),
        )
        runtime = runtime_of(model)
        try:
            check_targets(settings, [layer.path for layer in runtime.source.layers])
            print("routed experts stay as they are; what learns is counted below", file=sys.stderr)
            tested = run_lora(model, tokenizer, settings, losses)
            read = runtime.stats.prefill
        finally:
            runtime.close()
    if args.json:
        print(
            json.dumps(
                {
                    "adapter_path": str(settings.adapter_path),
                    "train_loss": losses.train,
                    "valid_loss": losses.valid,
                    "test_loss": tested,
                    "peak_bytes": losses.peak_bytes,
                    "experts": read.as_dict(),
                }
            )
        )
    elif settings.train:
        print(settings.adapter_path)
    elif tested is not None:
        print(f"{tested:.4f}")
    return 0
