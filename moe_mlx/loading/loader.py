"""`moe_mlx.load`: a store or an MLX checkpoint in, `(model, tokenizer)` out, accepted by every mlx-lm function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.tokenizer_utils import TokenizerWrapper

from moe_mlx.counts.ledger import Ledger
from moe_mlx.errors import MoeMlxWarning, UsageError
from moe_mlx.expert_cache.eviction import DEFAULT_EVICTION, make_eviction
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.reading import ReaderPool
from moe_mlx.expert_cache.residency import ResidencyTable
from moe_mlx.expert_cache.slots import SlotBank
from moe_mlx.expert_cache.steps import StepCounter
from moe_mlx.expert_cache.switch import CappedSwitch
from moe_mlx.families.registry import adapt
from moe_mlx.history.file import check_history
from moe_mlx.history.keeper import HistoryKeeper, open_history
from moe_mlx.history.warmup import Warmup, check_warm
from moe_mlx.loading.attachment import attach
from moe_mlx.loading.decode_way import check_decode, choose_decode
from moe_mlx.loading.lora import apply_adapters
from moe_mlx.loading.runtime import Runtime
from moe_mlx.loading.skeleton import build, replace_module
from moe_mlx.loading.tokenizer import load_tokenizer
from moe_mlx.loading.wiring import check_wired, hold_wired_limit
from moe_mlx.planning.budget import MemoryPlan, parse_cap, plan_memory
from moe_mlx.planning.kv_cache import KV_TOKENS, kv_bytes, kv_element_bytes
from moe_mlx.planning.prefetch import DEFAULT_EXTRA, Prefetch, check_prefetch, plan_prefetch
from moe_mlx.planning.slot_share import Curve, check_share, curves_of, shared_by
from moe_mlx.routing.exact import Exact
from moe_mlx.routing.names import DEFAULT_ROUTING
from moe_mlx.routing.settings import DEFAULT_LAMBDA, DEFAULT_MASS, RoutingSettings
from moe_mlx.store import ExpertSource, open_source
from moe_mlx.store.access import CACHED, DIRECT, DROPPED, Access
from moe_mlx.store.demo import DEMO, DEMO_EXPERT_CACHE, demo_path
from moe_mlx.store.files import expanded
from moe_mlx.store.probe import use_io
from moe_mlx.store.resolve import resolve
from moe_mlx.system.calibration import DEFAULT_READERS
from moe_mlx.system.memory import recommended_bytes
from moe_mlx.system.metal import comfortable_bytes


def load(
    path_or_repo: str | Path = DEMO,
    *,
    expert_cache: str | int | None = None,
    routing: str = DEFAULT_ROUTING,
    route_lambda: float = DEFAULT_LAMBDA,
    route_top_j: int | None = None,
    route_max_rank: int | None = None,
    route_mass: float = DEFAULT_MASS,
    evict: str = DEFAULT_EVICTION,
    decode: str = "auto",
    prefetch: str = "auto",
    prefetch_extra: int = DEFAULT_EXTRA,
    max_kv_size: int | None = None,
    share: str = "even",
    history: str | Path | None = None,
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
        evict: "lru" or "lfu".
        decode: "native" (routed and read inside MLX's graph, by a primitive built on first use), "readback" (in
            Python), or "auto": native where it builds and its self-check passes.
        prefetch: "on" reads ahead what the next layer is likely to choose, while a layer computes (native decode
            only; never changes a result), "off" does not, "auto" does where this machine's calibration measured a gain.
        prefetch_extra: Experts to guess beyond top_k; negative for fewer, which are right more often.
        max_kv_size: Tokens of KV cache to leave room for; 8,192 by default.
        share: "even", or "measured": the same cap shared among the layers by the misses that the history says each
            would have; evenly, with a remark, where that knows too little.
        history: Folder that keeps which experts this model used, counts only; "auto" for the user's cache folder, None
            for no history. It is written when an answer of a `Session` ends and when the runtime is closed.
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
        say: Gets one-line remarks (running in place, exact routing); by default they are warnings.

    Returns:
        mlx-lm's model and tokenizer; `moe_mlx.runtime_of(model)` is the cache behind it.

    Raises:
        UsageError: a parameter that cannot be taken.
        StoreError: the model is missing, incomplete or corrupt.
        DoesNotFitError: the expert cache is below its floor or above what memory holds.
    """
    settings = RoutingSettings(routing, route_lambda, route_top_j, route_max_rank, route_mass)
    make_eviction(evict)
    check_decode(decode)
    check_prefetch(prefetch, prefetch_extra)
    check_wired(wired)
    _check_whole("readers", readers)
    if max_kv_size is not None:
        _check_whole("max_kv_size", max_kv_size)
    history = check_history(history)
    check_warm(warm)
    if check_share(share) == "measured" and history is None:
        raise UsageError("share='measured' needs a history: give history='auto' or a folder, or share evenly")
    if expert_cache is None:
        expert_cache = DEMO_EXPERT_CACHE if _is_demo(path_or_repo) else "auto"
    cap = parse_cap(expert_cache)
    remark = say or (lambda line: warnings.warn(line, MoeMlxWarning, stacklevel=3))
    folder = resolve(path_or_repo, revision)
    source = open_source(folder, verify=verify_reads)
    try:
        access = use_io(source, io)
        available = recommended_bytes()
        config = dict(source.config)
        ahead = plan_prefetch(prefetch, prefetch_extra, source.layers, readers)
        plan = plan_memory(
            source.layers,
            cap,
            resident_weights=source.resident_nbytes,
            kv_cache=kv_bytes(config, max_kv_size or KV_TOKENS, kv_element_bytes(config)),
            available=available,
            comfortable=comfortable_bytes(),
            per_layer_extra=_bounce_bytes(access, readers, decode, ahead) + (0 if ahead is None else ahead.nbytes),
        )
        keeper = open_history(history, source, remark)
        curves = None if share == "even" else _curves(keeper, source, remark)
        plan = shared_by(plan, source.layers, curves)
        mx.set_cache_limit(plan.mlx_cache)
        hold_wired_limit(plan.total, wired)
        model, config, switches = build(folder, source, model_config=model_config, trust_remote_code=trust_remote_code)
        runtime = _assemble(model, config, source, switches, plan, settings, evict, readers)
        runtime.curves = curves
        if adapter_path is not None:
            apply_adapters(model, adapter_path, [layer.path for layer in source.layers])
        mx.eval(model.parameters())
        runtime.fill_whole_layers()
        choose_decode(runtime, decode, say or (lambda line: None), ahead)
        if ahead is not None and runtime.prefetch is None:
            runtime.plan = replace(plan, extra=_bounce_bytes(access, readers, decode, None))
            if prefetch == "on":
                remark(f"--prefetch on has no effect: decode is not in the graph ({runtime.decode_reason})")
        tokenizer = load_tokenizer(
            folder,
            tokenizer_config,
            eos_token_ids=config.get("eos_token_id"),
            trust_remote_code=trust_remote_code,
        )
        runtime.stats.reset()
        if keeper is not None:
            keeper.watch(lambda: [cache.table for cache in runtime.layers])
            runtime.history = keeper
        _warm(runtime, warm, say or (lambda line: None))
    except BaseException:
        source.close()
        raise
    _remarks(runtime, folder, remark)
    if io == DIRECT and access.way != DIRECT:
        after = " and dropped from it after each read" if access.way == DROPPED else ""
        remark(f"{folder.name}: experts are read through the page cache{after}: {access.reason}")
    return model, tokenizer


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} is {value!r}: give a whole number, 1 or more")


def _bounce_bytes(access: Access, readers: int, decode: str, ahead: Prefetch | None) -> int:
    """Returns what bounce buffers may take: one a thread, of Python's, of the graph's and of those that read ahead."""
    threads = readers if decode == "readback" else 2 * readers + (0 if ahead is None else ahead.threads)
    return access.bounce_nbytes * threads


def _curves(
    keeper: HistoryKeeper | None, source: ExpertSource, remark: Callable[[str], None]
) -> tuple[Curve, ...] | None:
    curves, reason = curves_of(None if keeper is None else keeper.past, source.layers)
    if curves is None:
        remark(f"slots are shared evenly: {reason}")
    return curves


def _warm(runtime: Runtime, warm: str, say: Callable[[str], None]) -> None:
    past = None if runtime.history is None else runtime.history.past
    if warm == "off" or past is None:
        return
    warmup = Warmup(runtime.layers, past, runtime.pool, runtime.counter, runtime.warm_counts, say)
    if warm == "on":
        warmup.finish()
        if line := warmup.summary():
            say(line)
    elif not any(cache.lossy for cache in runtime.layers):
        runtime.warmup = warmup


def _is_demo(path_or_repo: str | Path) -> bool:
    if str(path_or_repo) == DEMO:
        return True
    try:
        return expanded(path_or_repo).resolve() == demo_path().resolve()
    except OSError:
        return False


def _assemble(
    model: nn.Module,
    config: dict[str, Any],
    source: ExpertSource,
    switches: list[tuple[str, nn.Module]],
    plan: MemoryPlan,
    settings: RoutingSettings,
    evict: str,
    readers: int,
) -> Runtime:
    """Puts a capped switch in every switch's place."""
    pool, ledger, counter = ReaderPool(source, readers), Ledger(len(source.layers)), StepCounter()
    caches: list[LayerCache] = []
    routed = True
    for layer, count, (path, inner) in zip(source.layers, plan.slots, switches, strict=True):
        bank = SlotBank(layer.tensors, count)
        bank.install(inner)
        table = ResidencyTable(layer.experts, count, make_eviction(evict))
        log = ledger.logs[layer.index]
        cache = LayerCache(layer, table, bank, pool, Exact(), log, counter, inner)
        replace_module(model, path, CappedSwitch(cache))
        routed = adapt(model, path) and routed
        caches.append(cache)
    runtime = Runtime(model, config, source, pool, ledger, counter, caches, settings, evict, plan, routed)
    if routed:
        runtime.set_routing()
    attach(model, runtime)
    return runtime


def _remarks(runtime: Runtime, folder: Path, remark: Callable[[str], None]) -> None:
    lossy_asked = runtime.routing.routing != "exact" and not all(cache.full for cache in runtime.layers)
    if lossy_asked and not runtime.routed:
        family = runtime.config.get("model_type", "this family")
        remark(f"{family}: no routing adapter knows this model's router, so it is routed exactly (moe-mlx families)")
    elif lossy_asked and all(cache.policy.lossless for cache in runtime.layers):
        remark(f"{runtime.routing.describe()} cannot change any choice here, so this is exact routing")
    if runtime.source.in_place and not _is_demo(folder) and not all(cache.full for cache in runtime.layers):
        runs = len(runtime.source.byte_ranges(0, 0))
        remark(
            f"{folder.name}: running in place, {runs} reads an expert and no digests; "
            "`moe-mlx convert` makes it one checked read"
        )
