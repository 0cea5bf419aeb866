"""From parsed arguments to a loaded model, and to a conversation with it: for the verbs and for the app alike.

`commands` says what the arguments are called and what they mean; here they only are read. MLX comes when a model does.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moe_mlx.errors import UsageError
from moe_mlx.routing.names import DEFAULT_FORM
from moe_mlx.routing.price import Price, read_price
from moe_mlx.store.access import CACHED
from moe_mlx.system.terminal import to_stderr

if TYPE_CHECKING:
    from mlx import nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

    from moe_mlx.conversation.prompt_store import PromptStore
    from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
    from moe_mlx.conversation.session import Session
    from moe_mlx.loading.options import Options
    from moe_mlx.loading.runtime import Runtime
    from moe_mlx.planning.kv_cache import KVWish

#: Said in place of a folder: nothing is kept.
OFF = "off"


def history_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Returns history, profile, warm-up and share as `moe_mlx.load` takes them; nothing for a verb without them."""
    if getattr(args, "no_history", True):
        if getattr(args, "history", None) is not None:
            raise UsageError("--history and --no-history contradict each other: give one")
        for option, value in (("warm", "on"), ("share", "measured")):
            if getattr(args, option, None) == value:
                raise UsageError(f"--{option} {value} needs the history that --no-history leaves out")
        if str(pin := getattr(args, "pin", None) or "").isdecimal():
            raise UsageError(f"--pin {pin} goes by the history that --no-history leaves out: name experts instead")
        return {}
    unhurried = args.idle and price_of(args) is None and args.routing == "exact" and args.light == "exact"
    warm = "off" if args.warm == "off" else "idle" if unhurried else "on" if args.warm == "on" else "off"
    return {"history": args.history or "auto", "profile": args.profile or None, "warm": warm, "share": args.share}


def price_of(args: argparse.Namespace) -> Price | None:
    """Returns the price that is to be held; None where a routing is to be.

    A price that is a default of the user's gives way to a routing of the command line.

    Raises:
        UsageError: it cannot be read, or contradicts what else was asked for.
    """
    quality, speed = getattr(args, "quality", None), getattr(args, "speed", None)
    price = read_price(quality, speed)
    if price is None:
        return None
    option = "--speed" if quality is None else "--quality"
    own = getattr(args, "price_told", ())
    if told := getattr(args, "routing_told", ()):
        if not own:
            return None
        raise UsageError(f"{option} chooses the routing between tokens, and {told[0]} names one: give one of them")
    beside = {
        "audit": "audits by itself" if quality is not None else "counts what auditing takes as time",
        "draft_model": "is held at decode, which drafts replace",
        "parallel": "is held on one machine",
        "compare": "moves the routing that is to be compared",
    }
    for name, why in beside.items():
        if getattr(args, name, None) is not None:
            or_else = "" if own else ", or name a --routing, which your default gives way to"
            raise UsageError(f"{option} {why}: leave out --{name.replace('_', '-')}{or_else}")
    return price


def routing_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the routing that was asked for, as `moe_mlx.load` takes it; what was not given keeps its default."""
    if price_of(args) is not None:
        return {}
    names = (
        "routing",
        "route_lambda",
        "route_top_j",
        "route_max_rank",
        "route_mass",
        "light",
        "light_beyond",
        "light_distance",
    )
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def options_of(args: argparse.Namespace) -> Options:
    """Returns what the arguments ask for, checked."""
    from moe_mlx.system.calibration import readers_for

    readers = readers_for(args.readers)
    from moe_mlx.loading.options import Options
    from moe_mlx.routing.settings import RoutingSettings

    return Options(
        path_or_repo=args.model,
        expert_cache=args.expert_cache,
        routing=RoutingSettings(**routing_arguments(args)),
        evict=args.evict,
        decode=getattr(args, "decode", "auto"),
        prefetch=getattr(args, "prefetch", "auto"),
        prefetch_extra=getattr(args, "prefetch_extra", 0),
        readers=readers,
        io=getattr(args, "io", CACHED),
        wired=getattr(args, "wired", "auto"),
        light_form=getattr(args, "light_form", DEFAULT_FORM),
        verify_reads=not args.no_verify,
        adapter_path=args.adapter_path,
        revision=args.revision,
        trust_remote_code=args.trust_remote_code,
        tokenizer_config={"trust_remote_code": True} if args.trust_remote_code else {},
        kv=_kv_wish(args),
        beside=getattr(args, "beside", 0),
        pictures=getattr(args, "pictures", False),
        pin=getattr(args, "pin", None) or None,
        **history_arguments(args),
    )


def _kv_wish(args: argparse.Namespace) -> KVWish:
    """Returns what the KV cache is planned for: of one conversation, or of all that a server answers at once."""
    from moe_mlx.planning.kv_cache import KVWish

    served = getattr(args, "decode_concurrency", None)
    return KVWish(
        getattr(args, "max_kv_size", None),
        rotating=served is None,
        sequences=served or 1,
        bits=getattr(args, "kv_bits", None),
        group=getattr(args, "kv_group_size", 64),
        start=getattr(args, "quantized_kv_start", 5000),
    )


def load_model(args: argparse.Namespace, say: Callable[[str], None] = to_stderr) -> tuple[nn.Module, TokenizerWrapper]:
    """Loads what the arguments name; remarks go to `say`, standard error by default."""
    options = options_of(args)
    from moe_mlx.loading.loader import load_as

    model, tokenizer = load_as(options, say, say)
    finish_tokenizer(args, tokenizer)
    return model, tokenizer


def finish_tokenizer(args: argparse.Namespace, tokenizer: TokenizerWrapper) -> None:
    """Gives a tokenizer the further ends and the chat template that the arguments ask for.

    Raises:
        UsageError: it has no such token.
    """
    for token in getattr(args, "extra_eos_token", ()):
        try:
            tokenizer.add_eos_token(token)
        except ValueError:
            raise UsageError(f"--extra-eos-token {token}: this model's tokenizer has no such token") from None
    if getattr(args, "use_default_chat_template", False) and tokenizer.chat_template is None:
        tokenizer.chat_template = tokenizer.default_chat_template


def sampling_of(args: argparse.Namespace) -> Sampling:
    """Returns the sampling that was asked for."""
    from dataclasses import fields

    from moe_mlx.conversation.session import Sampling

    return Sampling(**{field.name: getattr(args, field.name) for field in fields(Sampling)})


def caching_of(args: argparse.Namespace) -> KVCacheSettings:
    """Returns the KV cache settings that were asked for."""
    from dataclasses import fields

    from moe_mlx.conversation.session import KVCacheSettings

    return KVCacheSettings(**{field.name: getattr(args, field.name) for field in fields(KVCacheSettings)})


def store_place(text: str) -> str | None:
    """Reads `--prompt-store`: a folder, "auto", or "off"."""
    return None if text == OFF else text


def prompt_store_of(
    args: argparse.Namespace, runtime: Runtime, caching: KVCacheSettings, say: Callable[[str], None]
) -> PromptStore | None:
    """Returns the store that was asked for; None where none was, or where no one routing is in force."""
    if getattr(args, "prompt_store", None) is None:
        return None
    if (price := price_of(args)) is not None:
        say(f"prompt caches are not kept between runs: {price.describe()} moves the routing that they belong to")
        return None
    from moe_mlx.conversation.prompt_store import open_prompt_store

    return open_prompt_store(
        runtime, args.prompt_store, caching, adapter=args.adapter_path, most_bytes=args.prompt_store_bytes, say=say
    )


def template_of(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments for the chat template that were given.

    Raises:
        UsageError: they are no JSON object.
    """
    if not args.chat_template_config:
        return {}
    try:
        template = json.loads(args.chat_template_config)
    except ValueError as error:
        raise UsageError(f"--chat-template-config is no JSON: {error}") from error
    if not isinstance(template, dict):
        raise UsageError("--chat-template-config holds no object")
    return template


def open_session(args: argparse.Namespace, say: Callable[[str], None] = to_stderr) -> Session:
    """Checks the arguments, loads the model and opens a conversation with it."""
    template = template_of(args)
    from moe_mlx.conversation.audit import Auditor, check_every
    from moe_mlx.conversation.keeper import Keeper
    from moe_mlx.conversation.session import Session
    from moe_mlx.drafting.opening import with_draft
    from moe_mlx.loading.attachment import runtime_of
    from moe_mlx.loading.pressure import PressureWatch

    price = price_of(args)
    sampling, caching, every = sampling_of(args), caching_of(args), getattr(args, "audit", None)
    if every is not None:
        check_every(every)
    args, wish = with_draft(args)
    model, tokenizer = load_model(args, say)
    drafting = None if wish is None else wish.open(model, tokenizer, caching.max_kv_size)
    watch = PressureWatch(runtime_of(model), say)
    auditor = None if every is None else Auditor(model, every)
    return Session(
        model,
        tokenizer,
        sampling,
        caching,
        template,
        raw=args.ignore_chat_template,
        between_tokens=watch.between_tokens,
        auditor=auditor if price is None else Keeper(model, price),
        store=prompt_store_of(args, runtime_of(model), caching, say),
        drafting=drafting,
    )
