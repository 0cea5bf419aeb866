"""The steps of answers under way, by mlx-lm's own loops: several at once, or one alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import mlx.core as mx
from mlx import nn
from mlx_lm.generate import BatchGenerator, StopSequences, generate_step

from moe_mlx.conversation.sampling import KVCacheSettings
from moe_mlx.drafting.drafting import Drafting
from moe_mlx.drafting.steps import DraftedSteps
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.serving.drawing import Processor, Sampler
from moe_mlx.serving.job import Job
from moe_mlx.vlm.calling import built_by_mlx_vlm
from moe_mlx.vlm.processing import PicturePrompt
from moe_mlx.vlm.reading import read_pictures


@dataclass(slots=True)
class Start:
    """What an answer starts from: a cache that holds the first `reused` tokens of the prompt, and how it is drawn."""

    job: Job
    prompt: list[int]
    cache: list[Any]
    reused: int
    sampler: Sampler
    processors: list[Processor]


@dataclass(slots=True)
class Drawn:
    """A token of an answer; `logprobs` `[V]`, before sampling."""

    job: Job
    token: int
    logprobs: mx.array


@dataclass(slots=True)
class Read:
    """A chunk of a prompt: tokens done and in all, what was found in a cache included."""

    job: Job
    done: int
    total: int


@dataclass(slots=True)
class Worth:
    """A prompt cache worth keeping, and the tokens it holds."""

    tokens: list[int]
    cache: list[Any]


class Runner(Protocol):
    """Answers under way."""

    jobs: list[Job]

    def reading(self) -> bool:
        """Returns whether a prompt is being read."""

    def step(self) -> Iterator[Drawn | Read | Worth]:
        """Does one step and yields what came of it.

        Raises:
            Exception: whatever the model or MLX raises; the runner is of no use after it.
        """

    def take_out(self, job: Job, *, keep: bool) -> Worth | None:
        """Ends an answer; returns its cache, where it is to be kept and can be."""

    def close(self) -> None:
        """Ends everything."""


class TogetherRunner:
    """Several answers in the same steps: mlx-lm's continuous batching, one prompt read at a time."""

    def __init__(self, model: nn.Module, chunk: int, at_once: int) -> None:
        self._batch = BatchGenerator(
            model, completion_batch_size=at_once, prefill_batch_size=1, prefill_step_size=chunk
        )
        self._runtime = runtime_of(model)
        self._by_uid: dict[int, Job] = {}
        self._reading: set[int] = set()
        self._reused: dict[int, int] = {}

    @property
    def jobs(self) -> list[Job]:
        """Answers under way."""
        return list(self._by_uid.values())

    def reading(self) -> bool:
        """Returns whether a prompt is being read."""
        return bool(self._reading)

    def add(self, start: Start) -> None:
        """Takes one more."""
        places = [place for place in start.job.boundaries if start.reused < place < len(start.prompt)]
        cuts = [start.reused, *places, len(start.prompt)]
        segments = [start.prompt[a:b] for a, b in pairwise(cuts) if b > a]
        (uid,) = self._batch.insert_segments(
            [segments],
            max_tokens=[1 << 62],
            caches=[start.cache],
            all_tokens=[start.prompt[: start.reused]],
            samplers=[start.sampler],
            logits_processors=[tuple(start.processors)],
            stop_sequences=[StopSequences()],
        )
        self._by_uid[uid] = start.job
        self._reused[uid] = start.reused
        self._reading.add(uid)

    def step(self) -> Iterator[Drawn | Read | Worth]:
        """See `Runner`."""
        read, drawn = self._batch.next()
        self._runtime.check_token()
        for response in read:
            done, total = response.progress
            reused = self._reused[response.uid]
            yield Read(self._by_uid[response.uid], reused + done, reused + total)
            if response.end_of_prompt:
                self._reading.discard(response.uid)
            elif response.end_of_segment and self._by_uid[response.uid].boundaries:
                for cache, tokens in self._batch.extract_cache([response.uid]).values():
                    yield Worth(list(tokens), cache)
        for response in drawn:
            if (job := self._by_uid.get(response.uid)) is not None:
                yield Drawn(job, response.token, response.logprobs)

    def take_out(self, job: Job, *, keep: bool) -> Worth | None:
        """See `Runner`."""
        uid = next(uid for uid, other in self._by_uid.items() if other is job)
        worth = None
        if keep and uid not in self._reading:
            for cache, tokens in self._batch.extract_cache([uid]).values():
                worth = Worth(list(tokens), cache)
        self._batch.remove([uid])
        del self._by_uid[uid], self._reused[uid]
        self._reading.discard(uid)
        return worth

    def close(self) -> None:
        """See `Runner`."""
        self._batch.close()
        self._by_uid.clear()


class _LeftError(Exception):
    """Raised inside mlx-lm's prefill to leave it at a chunk's end."""


class AloneRunner:
    """One answer by itself: seeded, with a draft model, with a cache that does not batch, or audited."""

    def __init__(
        self,
        model: nn.Module,
        drafting: Drafting | None,
        chunk: int,
        caching: KVCacheSettings,
        between: Callable[[], None],
        start: Start,
    ) -> None:
        self._start, self._between, self._runtime = start, between, runtime_of(model)
        self.jobs = [start.job]
        self._tokens: list[int] = []
        self._read: list[Read] = []
        self._notify: Callable[[Read], None] | None = None
        pictured = start.prompt if isinstance(start.prompt, PicturePrompt) else None
        if built_by_mlx_vlm(model):
            model.note_pictures(False)
        rest = mx.array(start.prompt[start.reused :] if pictured is None else start.prompt[-1:])
        common: dict[str, Any] = {
            "max_tokens": 1 << 62,
            "sampler": start.sampler,
            "prompt_cache": start.cache,
            "prefill_step_size": chunk,
            "kv_bits": caching.kv_bits,
            "kv_group_size": caching.kv_group_size,
            "quantized_kv_start": caching.quantized_kv_start,
            "logits_processors": self._seeing_all(start) or None,
        }
        self._steps: Generator[Any, None, None]
        if drafting is None:
            common["prompt_progress_callback"] = self._progress if pictured is None else self._looked
            steps = generate_step(rest, model, **common)
            self._steps = steps if pictured is None else self._after_pictures(model, pictured, chunk, steps)
        else:
            context, count = start.prompt[: start.reused], start.job.drawing.draft_tokens
            self._steps = DraftedSteps(drafting, model, context, count=count, **common).run(rest, self._progress)

    def _after_pictures(
        self, model: nn.Module, prompt: PicturePrompt, chunk: int, steps: Generator[Any, None, None]
    ) -> Generator[Any, None, None]:
        """Reads pictures first; mlx-lm begins with the prompt's last token."""
        read_pictures(model, prompt, self._start.cache, chunk, self._progress)
        yield from steps

    def _looked(self, done: int, total: int) -> None:
        """The last token of a prompt with pictures is no chunk of it."""

    @staticmethod
    def _seeing_all(start: Start) -> list[Processor]:
        """mlx-lm shows processors what it computed: what was found in a cache goes before it."""
        if not start.reused:
            return start.processors
        before = mx.array(start.prompt[: start.reused])

        def seeing_all(one: Processor) -> Processor:
            return lambda tokens, logits: one(mx.concatenate([before, tokens]), logits)

        return [seeing_all(one) for one in start.processors]

    def _progress(self, done: int, total: int) -> None:
        self._between()
        if self._notify is not None:
            self._notify(Read(self._start.job, self._start.reused + done, self._start.reused + total))
        if self._start.job.left.is_set():
            raise _LeftError

    def reading(self) -> bool:
        """Returns whether the prompt is being read."""
        return bool(self.jobs) and not self._tokens

    def watch(self, notify: Callable[[Read], None]) -> None:
        """Hands over whom to tell of each chunk of the prompt while a step is under way."""
        self._notify = notify

    def step(self) -> Iterator[Drawn | Read | Worth]:
        """See `Runner`."""
        try:
            token, logprobs, *_ = next(self._steps)
            self._runtime.check_token()
        except _LeftError:
            return
        self._tokens.append(int(token))
        yield Drawn(self._start.job, int(token), logprobs)

    def take_out(self, job: Job, *, keep: bool) -> Worth | None:
        """See `Runner`."""
        self._steps.close()
        self.jobs = []
        if not keep or not self._tokens or isinstance(self._start.prompt, PicturePrompt):
            return None
        return Worth(self._start.prompt + self._tokens, self._start.cache)

    def close(self) -> None:
        """See `Runner`."""
        self._steps.close()
        self.jobs = []
