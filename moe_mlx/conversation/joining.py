"""From parsed arguments to one model over several machines: they meet, compare, share its layers, load their own."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from moe_mlx.conversation.opening import caching_of, finish_tokenizer, options_of, sampling_of, template_of
from moe_mlx.conversation.sampling import KVCacheSettings, Sampling
from moe_mlx.errors import UsageError
from moe_mlx.machines.facts import compare, facts_here
from moe_mlx.machines.launched import AUTO, JACCL, TENSOR, Launch, launched
from moe_mlx.machines.meeting import Meeting
from moe_mlx.machines.split import parse_split

if TYPE_CHECKING:
    from moe_mlx.conversation.leading import LeadingSession
    from moe_mlx.loading.options import Options

#: What runs on one machine only, so far: its option, and its value where it is not asked for.
ALONE = (
    ("adapter_path", None),
    ("audit", None),
    ("compare", None),
    ("prompt_store", None),
    ("draft_model", None),
    ("light", "exact"),
    ("share", "even"),
    ("allow_models", None),
    ("pictures", False),
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How a conversation is held: as in `Session`, whose attributes these are."""

    sampling: Sampling = field(default_factory=Sampling)
    caching: KVCacheSettings = field(default_factory=KVCacheSettings)
    template: dict[str, Any] = field(default_factory=dict)
    raw: bool = False


def join(args: argparse.Namespace, say: Callable[[str], None], manner: Manner | None = None) -> LeadingSession | None:
    """Joins the group that mlx.launch started, and loads this rank's part of the model.

    Args:
        args: Of a verb with `--parallel`.
        say: Gets what a user should know, one line each.
        manner: Of the conversation; by default what the arguments of a verb that holds one itself say.

    Returns:
        Rank 0's conversation. None on the other ranks: there it has followed rank 0 to its end.

    Raises:
        UsageError: mlx.launch did not start this, the ranks differ, or something asked for runs on one machine only.
        MachinesError: a rank is missing, gone, silent or failed.
        MoeMlxError: what loading raises; the other ranks have been told.
    """
    launch = launched()
    if launch is None:
        raise UsageError(
            "--parallel shares a model among machines: start this on all of them with `mlx.launch --hostfile "
            "hosts.json -- moe-mlx ...`"
        )
    for option, nothing in ALONE:
        if getattr(args, option, nothing) not in (nothing, "off"):
            raise UsageError(f"--{option.replace('_', '-')} runs on one machine only: leave it or --parallel out")
    if args.warm == "on":
        raise UsageError("--warm runs on one machine only: leave it or --parallel out")
    if args.parallel == AUTO and args.split:
        raise UsageError("--split is of one way: choose --parallel pipeline or tensor with it")
    if args.profile and not args.no_history:
        raise UsageError("--profile: several machines keep no history; leave it out, or give --no-history")
    if getattr(args, "pin", None):
        raise UsageError("--pin runs on one machine only: leave it or --parallel out")

    def told(line: str) -> None:
        say(line if launch.rank == 0 else f"rank {launch.rank}: {line}")

    if launch.rank:
        # A terminal's Ctrl-C reaches every process on its machine: it is rank 0 that stops, and the others with it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    options = _options(args, launch)
    if manner is None:
        manner = Manner(sampling_of(args), caching_of(args), template_of(args), args.ignore_chat_template)
    meeting = Meeting.open(launch, patience=args.peer_timeout, say=told)
    from moe_mlx.machines.group import in_group

    with in_group(meeting):
        return _loaded(args, options, manner, meeting, told)


def _options(args: argparse.Namespace, launch: Launch) -> Options:
    """Returns what this rank loads: its own cap of a list of them, and no history."""
    caps = args.expert_cache.split(",") if args.expert_cache else [None]
    if len(caps) not in (1, launch.size):
        raise UsageError(f"--expert-cache {args.expert_cache}: give one for all {launch.size} ranks, or one for each")
    own = argparse.Namespace(**{**vars(args), "no_history": True, "history": None, "warm": None})
    own.expert_cache = caps[launch.rank if len(caps) > 1 else 0]
    return options_of(own)


def _loaded(
    args: argparse.Namespace, options: Options, manner: Manner, meeting: Meeting, told: Callable[[str], None]
) -> LeadingSession | None:
    from moe_mlx.loading.opening import open_model
    from moe_mlx.store.described import description_digest

    with open_model(options).source as source:
        model, family = description_digest(source), str(source.config.get("model_type"))
    kv = options.kv
    compare(
        meeting,
        facts_here(
            parallel=args.parallel,
            ranks=meeting.launch.size,
            family=family,
            model=model,
            expert_cache=args.expert_cache or "auto",
            routing=options.routing.describe(),
            eviction=options.evict,
            decode=options.decode,
            split=args.split or "by memory",
            KV_cache=f"{kv.max_kv_size} tokens, {kv.bits} bits of {kv.group} from {kv.start}",
            prefill_step=args.prefill_step_size,
        ),
    )
    from moe_mlx.conversation.figures import facts_of
    from moe_mlx.conversation.following import follow
    from moe_mlx.conversation.leading import LeadingSession
    from moe_mlx.conversation.pressed import PressedTogether
    from moe_mlx.conversation.session import Session
    from moe_mlx.conversation.whole_model import WholeModel
    from moe_mlx.loading.attachment import runtime_of
    from moe_mlx.loading.loader import load_as
    from moe_mlx.loading.pressure import PressureWatch
    from moe_mlx.machines.group import begin
    from moe_mlx.machines.part import Part
    from moe_mlx.machines.rows import Rows
    from moe_mlx.system.memory import room_beside

    memories = tuple(int(room) for room in meeting.exchange("memory", room_beside(0)))
    way = _way(args, options, meeting, memories, told)
    group = begin(meeting)

    def agree(about: str, words: str) -> list[str]:
        return [str(word) for word in meeting.exchange(about, words)]

    asked = parse_split(args.split) if args.split else None
    part: Part | Rows
    if way == TENSOR:
        part = Rows(group, memories, asked, agree)
    else:
        part = Part(group, memories, asked, agree)
    loaded, tokenizer = load_as(replace(options, part=part), told, told)
    finish_tokenizer(args, tokenizer)
    runtime = runtime_of(loaded)
    parts = meeting.exchange("loaded", facts_of(runtime))
    by_layers = way != TENSOR
    caching = manner.caching
    session: Session
    if meeting.leads:
        session = leading = LeadingSession(
            loaded,
            tokenizer,
            manner.sampling,
            template=manner.template,
            raw=manner.raw,
            meeting=meeting,
            group=group,
            whole=WholeModel(runtime, meeting, parts, by_layers=by_layers),
            caching=caching,
        )
    else:
        session = Session(loaded, tokenizer, caching=caching)
    watch = PressureWatch(runtime, told)
    # By rows one rank's slots are everyone's.
    session.between_tokens = (watch if by_layers else PressedTogether(session, watch, meeting)).between_tokens
    if meeting.leads:
        return leading
    follow(session, meeting, group, by_layers=by_layers)
    return None


def _way(
    args: argparse.Namespace,
    options: Options,
    meeting: Meeting,
    memories: tuple[int, ...],
    told: Callable[[str], None],
) -> str:
    """Returns how the model is shared: as asked for, or as rank 0 chooses."""
    if args.parallel != AUTO:
        return str(args.parallel)
    from moe_mlx.conversation.choosing import choose
    from moe_mlx.loading.opening import open_model

    way = ""
    if meeting.leads:
        opened = open_model(options)
        with opened.source as source:
            link = args.link or ("jaccl" if meeting.launch.backend == JACCL else "10G")
            way, why = choose(opened.folder, source, options, memories, link)
        told(why)
    return str(meeting.exchange("way", way)[0])
