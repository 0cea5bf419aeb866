"""Arguments that every verb with a model shares. Spellings are mlx_lm.generate's where it has them; no MLX here."""

from __future__ import annotations

import argparse

from moe_mlx.commands.price_arguments import Told
from moe_mlx.expert_cache.eviction import DEFAULT_EVICTION, EVICTIONS
from moe_mlx.machines.launched import AUTO, LINK_NAMES, PATIENCE, WAYS
from moe_mlx.planning.prefetch import PREFETCHES
from moe_mlx.planning.slot_share import SHARES
from moe_mlx.routing.names import (
    DECODE_WAYS,
    DEFAULT_BEYOND,
    DEFAULT_DISTANCE,
    DEFAULT_FORM,
    DEFAULT_ROUTING,
    EXACT,
    LIGHT_FORMS,
    LIGHTS,
    POLICIES,
)
from moe_mlx.store.access import CACHED, IOS


class _TakeModel(argparse.Action):
    """Takes a word that stands alone for `--model`. Under a name of its own, or it would undo that."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        namespace.model = values


def add_model_arguments(parser: argparse.ArgumentParser, *, alone: bool = False, pictures: bool = False) -> None:
    """Adds what names a model, its cap and its routing.

    Args:
        parser: Of the verb.
        alone: Whether the model needs no `--model` before it.
        pictures: Whether the verb takes pictures from who talks to the model.
    """
    model = parser.add_argument_group("model")
    named = model.add_mutually_exclusive_group()
    named.add_argument(
        "--model", default="demo", help="store, MLX checkpoint folder, or hub repository (default: the embedded demo)"
    )
    if alone:
        named.add_argument(
            "named",
            nargs="?",
            metavar="MODEL",
            action=_TakeModel,
            default=argparse.SUPPRESS,
            help="the same, shorter",
        )
    model.add_argument("--revision", help="branch, tag or commit of a hub repository")
    model.add_argument("--adapter-path", help="LoRA adapter on attention, router or dense weights")
    model.add_argument("--trust-remote-code", action="store_true", help="allow code that the model or tokenizer brings")
    if pictures:
        model.add_argument(
            "--pictures", action="store_true", help="load the model for pictures too, by mlx-vlm (extra `vlm`)"
        )
    cache = parser.add_argument_group("expert cache")
    cache.add_argument(
        "--expert-cache",
        metavar="CAP",
        help="bytes (4GB), a share of the routed experts (50%%), or auto (default: auto; 50%% for the demo)",
    )
    cache.add_argument(
        "--evict",
        choices=tuple(EVICTIONS),
        default=DEFAULT_EVICTION,
        help="which expert gives way; router: the one that the router thought least of lately (default: lru)",
    )
    add_readers_argument(cache)
    cache.add_argument(
        "--io",
        choices=IOS,
        default=CACHED,
        help="read experts through the page cache, or past it (direct) so that no byte is held twice; where a file "
        "system refuses they are read cached, which is said (default: cached)",
    )
    cache.add_argument(
        "--wired",
        metavar="LIMIT",
        default="auto",
        help="memory that macOS keeps in place for the GPU: auto (the plan and a margin), max, off, or bytes "
        "(default: auto)",
    )
    cache.add_argument(
        "--decode",
        choices=DECODE_WAYS,
        default="auto",
        help="where decode routes: inside the graph (native) or in Python after a read-back (default: auto)",
    )
    cache.add_argument(
        "--prefetch",
        choices=PREFETCHES,
        default="auto",
        help="read what the next layer is guessed to choose; auto: where calibration measured a gain (default)",
    )
    cache.add_argument(
        "--prefetch-extra", type=int, default=0, metavar="A", help="experts to guess beyond top_k (default: 0)"
    )
    cache.add_argument("--no-verify", action="store_true", help="do not check digests when experts are read")
    routing = parser.add_argument_group("routing (decode only; prompts are always routed exactly)")
    routing.add_argument(
        "--routing", action=Told, choices=POLICIES, default=DEFAULT_ROUTING, help="(default: %(default)s)"
    )
    routing.add_argument("--route-lambda", action=Told, type=float, metavar="L", help="strength of cache-prior, 0 to 1")
    routing.add_argument(
        "--route-top-j", action=Told, type=int, metavar="J", help="true top experts that are never displaced"
    )
    routing.add_argument(
        "--route-max-rank", action=Told, type=int, metavar="M", help="max-rank: residents stand in from the top M"
    )
    routing.add_argument(
        "--route-mass", action=Told, type=float, metavar="P", help="cumulative: ... from the top that hold mass P"
    )
    light = parser.add_argument_group("light experts (decode only; prompts are always exact)")
    light.add_argument(
        "--light",
        action=Told,
        choices=LIGHTS,
        default=EXACT,
        help="what an absent expert of little weight does: exact waits for it; late reads it while the next layer "
        "computes and adds its output there, with its own weight; coarse uses it at its high bits, and reads those "
        "alone (stores of `moe-mlx convert --nested`); late-coarse does both. What that costs a model, `moe-mlx eval "
        "--light` says (default: exact)",
    )
    light.add_argument(
        "--light-beyond",
        action=Told,
        type=float,
        metavar="B",
        help=f"share of a token's weight that lies before an expert of little weight (default: {DEFAULT_BEYOND})",
    )
    light.add_argument(
        "--light-distance",
        action=Told,
        type=int,
        metavar="D",
        help=f"how many MoE layers later a late output is added (default: {DEFAULT_DISTANCE})",
    )
    add_form_argument(light)


def add_form_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--light-form`."""
    parser.add_argument(
        "--light-form",
        choices=LIGHT_FORMS,
        default=DEFAULT_FORM,
        help="what of an expert a coarse one is: every weight at its high bits, or the same with the last projection "
        "whole, for more bytes and less divergence (default: %(default)s)",
    )


def add_readers_argument(parser: argparse._ActionsContainer) -> None:
    """Adds `--readers`; `benchmark.calibration.readers_for` takes what is given."""
    parser.add_argument(
        "--readers",
        metavar="N",
        default="auto",
        help="threads that read experts, or auto: what `moe-mlx bench io --calibrate` found best here (default: auto)",
    )


def add_history_arguments(parser: argparse.ArgumentParser, *, idle: bool = False) -> None:
    """Adds what is remembered of earlier runs and what is done with it.

    Args:
        parser: Of a verb that a person uses; those that measure keep no history, so that their counts can be repeated.
        idle: Whether the verb waits for its user, so that there is time to warm up in.
    """
    group = parser.add_argument_group("history (which experts were used, counts only; docs/threats.md)")
    default = "on under exact routing, while nothing else is to be done" if idle else "off"
    group.add_argument(
        "--warm",
        choices=("on", "off"),
        help="fill the slots with what was hot before the first token; with a lossy routing the first answers then "
        f"depend on the history (default: {default})",
    )
    group.add_argument(
        "--share",
        choices=SHARES,
        default="even",
        help="the same cap evenly, or by what the history says each layer needs under exact routing (default: even)",
    )
    group.add_argument("--history", metavar="FOLDER", help="where it is kept (default: the user's cache folder)")
    group.add_argument(
        "--pin",
        metavar="EXPERTS",
        help="experts that never give way: how many of each layer's most used ones by the history or the profile, or "
        "experts by layer and number (3:17,3:21); changes no answer under exact routing",
    )
    kept = group.add_mutually_exclusive_group()  # a profile of the config file gives way to --no-history
    kept.add_argument(
        "--profile",
        metavar="NAME",
        help="a history by task, kept apart from the model's own under that name; `moe-mlx profile` lists them",
    )
    kept.add_argument("--no-history", action="store_true", help="neither read nor keep any")
    parser.set_defaults(idle=idle)


def add_sampling_arguments(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    """Adds sampling, the prompt's form and the KV cache."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--max-tokens", "-m", type=int, default=max_tokens, help=f"(default: {max_tokens})")
    group.add_argument("--temp", type=float, default=0.0, help="temperature; 0 is greedy (default: 0)")
    group.add_argument("--top-p", type=float, default=1.0, help="(default: 1)")
    group.add_argument("--min-p", type=float, default=0.0, help="(default: 0)")
    group.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens (default: 0, all)")
    group.add_argument("--min-tokens-to-keep", type=int, default=1, help="for --min-p (default: 1)")
    group.add_argument("--xtc-probability", type=float, default=0.0, help="(default: 0)")
    group.add_argument("--xtc-threshold", type=float, default=0.0, help="(default: 0)")
    group.add_argument("--repetition-penalty", type=float, help="penalise repeated tokens")
    group.add_argument("--seed", type=int, help="seed of the sampler")
    receipt = parser.add_argument_group("receipt")
    receipt.add_argument(
        "--audit",
        type=int,
        metavar="N",
        help="compute every N-th token with exact routing too and report the agreement; the answer does not change",
    )
    prompt = parser.add_argument_group("prompt")
    prompt.add_argument("--system-prompt", help="system message for the chat template")
    prompt.add_argument("--ignore-chat-template", action="store_true", help="give the prompt to the model as it is")
    prompt.add_argument("--use-default-chat-template", action="store_true", help="use the tokenizer's default template")
    prompt.add_argument("--chat-template-config", metavar="JSON", help="arguments for the chat template, one object")
    prompt.add_argument(
        "--extra-eos-token", nargs="+", default=(), metavar="TOKEN", help="more tokens that end an answer"
    )
    kv = parser.add_argument_group("KV cache")
    kv.add_argument(
        "--max-kv-size",
        type=int,
        help="tokens to keep at most (rotating); a family with a cache of its own is planned for, not bounded",
    )
    kv.add_argument("--prefill-step-size", type=int, default=2048, help="prompt tokens at a time (default: 2048)")
    kv.add_argument("--kv-bits", type=int, help="quantise the KV cache, where the family's can be")
    kv.add_argument("--kv-group-size", type=int, default=64, help="(default: 64)")
    kv.add_argument("--quantized-kv-start", type=int, default=5000, help="(default: 5000)")


def add_machines_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how a verb shares its model with the other ranks that mlx.launch started."""
    group = parser.add_argument_group("several machines (docs/machines.md)")
    group.add_argument(
        "--parallel",
        choices=(*WAYS, AUTO),
        help="share the model among the machines that mlx.launch started; pipeline: each keeps some of the "
        "layers; tensor: each keeps some rows of every expert (a store with --row-blocks); auto: the one that "
        "`moe-mlx plan --machines` would take",
    )
    group.add_argument("--link", choices=LINK_NAMES, help="between them, for auto (default: 10G; jaccl where it runs)")
    group.add_argument("--split", metavar="N,N", help="layers, or row blocks, of each rank (default: by memory)")
    group.add_argument(
        "--peer-timeout",
        type=float,
        default=PATIENCE,
        metavar="SECONDS",
        help="how long a machine may be missing or silent before the others give up (default: %(default)g)",
    )
