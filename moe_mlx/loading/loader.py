"""`moe_mlx.load`: a store or an MLX checkpoint in, `(model, tokenizer)` out, accepted by every mlx-lm function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlx import nn
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.errors import MoeMlxWarning, StoreMissingError
from moe_mlx.expert_cache.eviction import DEFAULT_EVICTION
from moe_mlx.history.warmup import warm_up
from moe_mlx.loading.assembling import assemble, read_resident
from moe_mlx.loading.attachment import attach
from moe_mlx.loading.decode_way import choose_decode
from moe_mlx.loading.kv_room import kv_room
from moe_mlx.loading.light_remark import light_remark
from moe_mlx.loading.limits import HeldLimits
from moe_mlx.loading.memory import plan_load
from moe_mlx.loading.opening import Opened, open_model
from moe_mlx.loading.options import Options, is_demo
from moe_mlx.loading.pictures import check_pictures, picture_reader
from moe_mlx.loading.resizing import Sizing
from moe_mlx.loading.runtime import Runtime
from moe_mlx.loading.skeleton import build, narrowed
from moe_mlx.loading.token_ids import check_lookups, check_tokenizer
from moe_mlx.loading.tokenizer import load_tokenizer
from moe_mlx.machines.part import Part
from moe_mlx.machines.rows import Rows
from moe_mlx.planning.kv_cache import KVWish
from moe_mlx.planning.prefetch import DEFAULT_EXTRA
from moe_mlx.routing.names import DEFAULT_BEYOND, DEFAULT_DISTANCE, DEFAULT_FORM, DEFAULT_ROUTING, EXACT
from moe_mlx.routing.settings import DEFAULT_LAMBDA, DEFAULT_MASS, RoutingSettings
from moe_mlx.store.access import CACHED
from moe_mlx.store.demo import DEMO
from moe_mlx.store.given import bits_words
from moe_mlx.store.held_rows import in_words
from moe_mlx.system.calibration import DEFAULT_READERS
from moe_mlx.system.sizes import show_bytes


def load(
    path_or_repo: str | Path = DEMO,
    *,
    expert_cache: str | int | None = None,
    routing: str = DEFAULT_ROUTING,
    route_lambda: float = DEFAULT_LAMBDA,
    route_top_j: int | None = None,
    route_max_rank: int | None = None,
    route_mass: float = DEFAULT_MASS,
    light: str = EXACT,
    light_beyond: float = DEFAULT_BEYOND,
    light_distance: int = DEFAULT_DISTANCE,
    light_form: str = DEFAULT_FORM,
    evict: str = DEFAULT_EVICTION,
    decode: str = "auto",
    prefetch: str = "auto",
    prefetch_extra: int = DEFAULT_EXTRA,
    max_kv_size: int | None = None,
    kv_bits: int | None = None,
    kv_group_size: int = 64,
    quantized_kv_start: int = 5000,
    share: str = "even",
    history: str | Path | None = None,
    profile: str | None = None,
    pin: str | int | None = None,
    warm: str = "off",
    readers: int = DEFAULT_READERS,
    io: str = CACHED,
    wired: str = "auto",
    verify_reads: bool = True,
    adapter_path: str | None = None,
    tokenizer_config: dict[str, Any] | None = None,
    model_config: dict[str, Any] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    pictures: bool = False,
    say: Callable[[str], None] | None = None,
) -> tuple[nn.Module, TokenizerWrapper]:
    """Loads a mixture-of-experts model under a capped expert cache.

    Args:
        path_or_repo: A store made by `moe-mlx convert`, an MLX checkpoint (runs in place), a hub repository, or "demo".
        expert_cache: Bytes ("4GB"), a share of the routed experts ("50%"), or "auto". By default "auto", and "50%" for
            the demo.
        routing: "exact", "cache-prior", "max-rank" or "cumulative". Prompts are always routed exactly.
        route_lambda: Strength of Cache-Prior, in [0, 1]; 0 is exact routing.
        route_top_j: True top experts that are never displaced.
        route_max_rank: M of Max-Rank.
        route_mass: p of Cumulative, in [0, 1].
        light: "exact" waits for every expert at decode. "late" does not wait for an absent one of little weight: its
            output is added a layer later, with its own weight and from its own layer's input. "coarse" uses experts of
            little weight at their high bits where they are not in memory whole, and reads those alone; it takes a
            store of `moe-mlx convert --nested`. "late-coarse" reads them late. Prompts are exact.
        light_beyond: Share of a token's weight that lies before an expert of little weight, in [0, 1].
        light_distance: How many MoE layers later a late expert's output is added.
        light_form: What of an expert a coarse one is: "2", every weight at its high bits, or "2-down4", the same with
            the last projection whole: more bytes, less divergence.
        evict: "lru" or "lfu".
        decode: "native" (routed and read inside MLX's graph, by a primitive built on first use), "readback" (in
            Python), or "auto": native where it builds and its self-check passes.
        prefetch: "on" reads what the next layer is guessed to choose, while a layer computes (native decode only;
            never changes a result), "off" does not, "auto" does where this machine's calibration measured a gain.
        prefetch_extra: Experts to guess beyond top_k; negative for fewer, which are right more often.
        max_kv_size: Tokens of KV cache to leave room for; 8,192 by default. A family that makes its own caches is
            planned for 8,192 at least, since nothing bounds them.
        kv_bits: Bits of a quantised KV cache, as mlx-lm takes them; refused where the family's cache cannot be.
        kv_group_size: Values that share a scale there.
        quantized_kv_start: Tokens from which on it is quantised.
        share: "even", or "measured": the same cap shared among the layers by the misses that the history says each
            would have; evenly, with a remark, where that knows too little.
        history: Folder that keeps which experts this model used, counts only; "auto" for the user's cache folder, None
            for no history. It is written when an answer of a `Session` ends and when the runtime is closed.
        profile: Name of a profile: a history of one task, kept apart from the model's own in the same folder ("auto"
            unless `history` names one). It is what `warm` and `share` go by. `moe-mlx profile` lists and copies them.
        pin: Experts that never give way, read in before this returns: how many of each layer's most used ones, by the
            history or the profile, or experts by layer and number ("3:17,3:21").
        warm: "on" fills the slots with what the history says was hot before this returns; under a lossy policy the
            first answers then depend on the history. "idle" leaves that to a front end's idle time, under exact
            routing only. "off" starts empty.
        readers: Threads that read experts.
        io: "cached", or "direct": past the page cache (O_DIRECT on Linux; F_NOCACHE on macOS, where pages that are
            cached already are still taken from there). A file system that refuses is read through the page cache,
            which is asked to forget the bytes after each read; `runtime_of(model).io_way` says what happens.
        wired: Memory that macOS keeps in place for the GPU: "auto" for what the plan holds and a margin, "max" for all
            that the system recommends, bytes ("9GB"), or "off". Set at loading; mlx-lm does not change it from then on.
        verify_reads: Whether every expert read from a store is checked against its digest.
        adapter_path: A LoRA adapter on attention, router or dense weights.
        tokenizer_config: Passed to mlx-lm's tokenizer loading.
        model_config: Overrides of the model's config.
        revision: Branch, tag or commit of a hub repository.
        trust_remote_code: Whether a model may bring its own code.
        pictures: Whether pictures will be shown to it: mlx-vlm builds it then, vision tower included.
        say: Gets one-line remarks (running in place, exact routing); by default they are warnings.

    Returns:
        mlx-lm's model and tokenizer; `moe_mlx.runtime_of(model)` is the cache behind it.

    Raises:
        UsageError: a parameter that cannot be taken.
        StoreError: the model is missing, incomplete or corrupt.
        DoesNotFitError: the expert cache is below its floor or above what memory holds.
    """
    options = Options(
        path_or_repo=path_or_repo,
        expert_cache=expert_cache,
        routing=RoutingSettings(
            routing,
            route_lambda,
            route_top_j,
            route_max_rank,
            route_mass,
            light,
            light_beyond,
            light_distance,
        ),
        evict=evict,
        decode=decode,
        prefetch=prefetch,
        prefetch_extra=prefetch_extra,
        kv=KVWish(max_kv_size, bits=kv_bits, group=kv_group_size, start=quantized_kv_start),
        share=share,
        history=history,
        profile=profile,
        pin=pin,
        warm=warm,
        readers=readers,
        io=io,
        wired=wired,
        verify_reads=verify_reads,
        adapter_path=adapter_path,
        tokenizer_config=tokenizer_config,
        model_config=model_config,
        revision=revision,
        trust_remote_code=trust_remote_code,
        pictures=pictures,
        light_form=light_form,
    )
    remark = say or (lambda line: warnings.warn(line, MoeMlxWarning, stacklevel=5))
    return load_as(options, say or (lambda line: None), remark)


def load_as(
    options: Options, say: Callable[[str], None], remark: Callable[[str], None]
) -> tuple[nn.Module, TokenizerWrapper]:
    """Loads what options name, as `load` does.

    Args:
        options: What is asked for.
        say: Gets one line of what takes time.
        remark: Gets one line of what a user should know.
    """
    opened = open_model(options)
    with ExitStack() as undo:
        undo.callback(opened.source.close)
        model, tokenizer, runtime = _load(options, opened, undo, say, remark)
        undo.pop_all()
    attach(model, runtime)
    _remarks(runtime, opened, remark)
    return model, tokenizer


def _load(
    options: Options, opened: Opened, undo: ExitStack, say: Callable[[str], None], remark: Callable[[str], None]
) -> tuple[nn.Module, TokenizerWrapper, Runtime]:
    """Goes through the stages from an opened model to its runtime; each takes what those before it returned."""
    source = opened.source
    check_pictures(options, source)
    skeleton = build(
        opened.folder,
        source,
        model_config=options.model_config,
        trust_remote_code=options.trust_remote_code,
        pictures=options.pictures,
    )
    part = options.part
    if source.held_rows is not None and not isinstance(part, Rows):
        raise StoreMissingError(
            f"{source.root}: only {in_words(source.held_rows)} are here, for --parallel tensor: take the whole store"
        )
    if isinstance(part, Part):
        skeleton = narrowed(skeleton, source, part)
    elif part is not None:
        source = part.share(source)
    kv = kv_room(skeleton.model, skeleton.family, skeleton.config, options.kv)
    for line in kv.remarks(options.kv):
        remark(line)
    planned = plan_load(options, source, skeleton.resident_nbytes, kv.nbytes, remark)
    if isinstance(part, Rows):
        planned = planned.with_slots(part.slots(planned.plan.slots), source.layers)
    limits = HeldLimits(planned.plan, options.wired)
    undo.callback(limits.give_back)
    check_lookups(skeleton.model)
    cached = assemble(skeleton, source, planned.plan, options)
    if isinstance(part, Rows):
        for cache in cached:
            part.gather_in(cache.inner, source, cache.spec.index)
    if cached.pool.readers < options.readers:
        remark(f"{cached.pool.readers} of {options.readers} reader threads: the system starts no more")
    read_resident(skeleton.model, cached)
    agree = None if part is None else part.agree
    chosen = choose_decode(skeleton.model, cached, options.decode, say, planned.prefetch, agree)
    if planned.prefetch is not None and chosen.prefetch is None:
        planned = planned.without_prefetch()
        if options.prefetch == "on":
            remark(f"--prefetch on has no effect: decode is not in the graph ({chosen.reason})")
    tokenizer = load_tokenizer(
        opened.folder,
        options.tokenizer_config,
        eos_token_ids=skeleton.config.get("eos_token_id"),
        trust_remote_code=options.trust_remote_code,
    )
    if said := check_tokenizer(skeleton.model, tokenizer, opened.folder):
        remark(said)
    cached.stats.reset()
    past = None
    if planned.history is not None:
        planned.history.watch(lambda: [cache.table for cache in cached])
        past = planned.history.past
    if pinned := sum(map(len, planned.pins)):
        nbytes = cached.pin(planned.pins)
        say(f"pinned {pinned} experts, {show_bytes(nbytes)} read")
    warmup = warm_up(cached, past, cached.pool, cached.counter, options.warm, say)
    runtime = Runtime(
        model=skeleton.model,
        config=skeleton.config,
        layers=cached,
        routing=options.routing,
        evict=options.evict,
        sizing=Sizing(cached, planned.plan, planned.curves, options.routing.light_rule.coarse, planned.budget),
        limits=limits,
        kv=kv,
        decode_reason=chosen.reason,
        prefetch=chosen.prefetch,
        history=planned.history,
        warmup=warmup,
        pictures=picture_reader(skeleton, opened.folder, options),
    )
    return skeleton.model, tokenizer, runtime


def _remarks(runtime: Runtime, opened: Opened, remark: Callable[[str], None]) -> None:
    """Says what a user should know of how the model runs."""
    whole = runtime.layers.whole
    lossy_asked = runtime.routing.routing != "exact" and not whole
    if lossy_asked and not runtime.layers.routed:
        family = runtime.config.get("model_type", "this family")
        remark(f"{family}: this model's router is not known, so it is routed exactly (moe-mlx families)")
    elif lossy_asked and all(cache.policy.lossless for cache in runtime.layers):
        remark(f"{runtime.routing.describe_policy()} cannot change any choice here, so this is exact routing")
    if bits := bits_words(runtime.source):
        remark(f"{opened.folder.name}: its experts have {bits}, which is not the model that they were made of")
    if line := light_remark(runtime):
        remark(line)
    if whole and runtime.profile:
        remark(f"profile {runtime.profile} learns nothing here: every expert has a slot, so that no use is counted")
    if runtime.evict == "router" and not runtime.layers.routed and not whole:
        remark("this model's router is not known, so --evict router empties the least recently used slot")
    if opened.source.in_place and not is_demo(opened.folder) and not whole:
        runs = len(opened.source.byte_ranges(0, 0))
        remark(
            f"{opened.folder.name}: running in place, {runs} reads an expert and no digests; "
            "`moe-mlx convert` makes it one checked read"
        )
    if opened.io_remark:
        remark(opened.io_remark)
