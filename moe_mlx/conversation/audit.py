"""Audit: every N-th token of an answer is computed a second time with exact routing, and the answer never notices.

The exact forward runs on a deep copy of the prompt cache, before the step itself, with each layer's experts brought
together in scratch slots of their own: resident ones copied, absent ones read. Residency, clocks, running ranges,
counters and the step's number stay as they are, so tokens and counts are those of an answer without audit. The copy
takes the memory of the KV cache once more while the audited step runs.

It hooks into the model's own call (`model.__class__` becomes a subclass while the auditor is entered), because the copy
has to be taken before the step: `with Auditor(model, every=8) as audit:` around `mlx_lm.stream_generate` or anything
else that calls the model. mlx-lm computes one step more than it yields; that one may be audited too.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn

from moe_mlx.conversation.divergence import divergence_of, log_probabilities
from moe_mlx.errors import UsageError
from moe_mlx.expert_cache.layer import LayerCache
from moe_mlx.expert_cache.slots import SlotBank
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.store import TensorSpec
from moe_mlx.system.given import is_whole
from moe_mlx.system.sizes import show_bytes


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """What the audited steps showed.

    Attributes:
        every: Every how many-th token was audited.
        tokens: Tokens audited.
        agreement: Share of them for which exact routing finds the same token likeliest.
        kl: Mean KL(exact || policy) of their next-token distributions, in nats.
        bytes_read: Read for the audit alone; in no counter of the answer.
    """

    every: int
    tokens: int
    agreement: float
    kl: float
    bytes_read: int

    @property
    def held(self) -> str:
        """The account of a price that was held; "" of an audit that only looks."""
        return ""

    def describe(self) -> str:
        """Returns the finding in a few words."""
        if not self.tokens:
            return f"audit of 0: fewer than {self.every} tokens"
        return f"audit of {self.tokens}: {self.agreement:.0%} agree with exact, KL {self.kl:.4f}"


def check_every(every: int) -> None:
    """Refuses what is no number of tokens; here, so that a front end can before it loads a model.

    Raises:
        UsageError: `every` is below 1.
    """
    if not is_whole(every):
        raise UsageError(f"audit is {every!r}: give every how many-th token is to be audited, 1 or more")


class Auditor:
    """Audits every N-th decode step of a model while it is entered.

    Its scratch slots count in the memory plan from creation to `close`.

    Attributes:
        every: N; step N is the first to be audited.
        nbytes: Bytes of the scratch slots: top-k for each layout of experts there is in the model.
    """

    def __init__(self, model: nn.Module, every: int) -> None:
        """Makes the scratch slots.

        Raises:
            UsageError: `every` is below 1, or the model was not loaded by moe_mlx.
            DoesNotFitError: the plan has no room for them.
        """
        check_every(every)
        self.model, self.every, self.runtime = model, every, runtime_of(model)
        slots: dict[tuple[TensorSpec, ...], int] = {}
        for layer in self.runtime.layers:
            slots[layer.spec.tensors] = max(slots.get(layer.spec.tensors, 0), layer.spec.top_k)
        self.nbytes = sum(sum(spec.nbytes for spec in specs) * count for specs, count in slots.items())
        self.runtime.sizing.reserve(self.nbytes, f"audit needs {show_bytes(self.nbytes)} of scratch slots")
        try:
            self._scratch = {specs: SlotBank(specs, count) for specs, count in slots.items()}
        except BaseException:
            self.runtime.sizing.give_back(self.nbytes)
            raise
        self._plain: type[nn.Module] | None = None
        self.reset()

    def reset(self) -> None:
        """Starts counting anew, for the next answer."""
        self._seen = self._tokens = self._agreed = self.bytes_read = 0
        self._kl = 0.0

    def summary(self) -> AuditSummary:
        """What was found since the last `reset`."""
        tokens = max(1, self._tokens)
        return AuditSummary(self.every, self._tokens, self._agreed / tokens, self._kl / tokens, self.bytes_read)

    def __enter__(self) -> Auditor:
        plain = type(self.model)
        self._plain = plain
        self.model.__class__ = type(plain.__name__, (_Audited, plain), {"__module__": plain.__module__})
        object.__setattr__(self.model, "moe_mlx_auditor", self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._plain is not None:
            self.model.__class__ = self._plain
            object.__delattr__(self.model, "moe_mlx_auditor")
            self._plain = None

    def settle(self) -> None:
        """Nothing is left to be audited at an answer's end: an audited token is computed with its step."""

    def close(self) -> None:
        """Gives the scratch slots back."""
        if self._scratch:
            self._scratch.clear()
            self.runtime.sizing.give_back(self.nbytes)

    def due(self, inputs: Any, prompt_cache: Any) -> bool:
        """Counts decode steps and tells whether this one is audited."""
        if prompt_cache is None or inputs.size != 1:
            return False
        self._seen += 1
        return self._seen % self.every == 0

    def exact(self, inputs: mx.array, prompt_cache: Any, call: Any, **kwargs: Any) -> mx.array:
        """Returns the logits of one step under exact routing, from a copy of the state.

        Args:
            inputs: `[1, 1]`, the token.
            prompt_cache: As it is before the step.
            call: The model's own call.
            **kwargs: Passed on to it.
        """
        for layer in self.runtime.layers:
            layer.aside = self._aside
        try:
            logits: mx.array = call(inputs, cache=copy.deepcopy(prompt_cache), **kwargs)
            mx.eval(logits)
        finally:
            for layer in self.runtime.layers:
                layer.aside = None
        return logits

    def compare(self, exact: mx.array, policy: mx.array) -> None:
        """Takes the logits `[1, 1, V]` of one step, exact and as it was."""
        p, q = (log_probabilities(logits[0, -1]) for logits in (exact, policy))
        kl = divergence_of(p, q)
        same = mx.argmax(p) == mx.argmax(q)
        mx.eval(kl, same)
        self._tokens += 1
        self._kl += kl.item()
        self._agreed += bool(same.item())

    def _aside(self, layer: LayerCache, x: mx.array, indices: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        """Computes one layer's routed experts from scratch slots; arguments as for `CappedSwitch`."""
        if layer.full:
            stored = mx.where(indices < layer.table.experts, indices, 0)  # longcat's identity experts have no weights
            whole: mx.array = layer.inner(x, stored, *args, **kwargs)
            return whole
        experts: list[int] = indices.reshape(-1).tolist()
        layer.claim()
        scratch = self._scratch[layer.spec.tensors]
        scratch.wait_for_queued()
        places: dict[int, int] = {}
        for place, expert in enumerate(layer.stored(dict.fromkeys(experts))):
            places[expert] = place
            slot = layer.table.slot_of[expert]
            if not layer.table.whole(expert):
                self.bytes_read += self.runtime.source.read_into(layer.spec.index, expert, scratch.buffers(place))
                continue
            for to, come in zip(scratch.buffers(place), layer.bank.buffers(slot), strict=True):
                to[:] = come
        slots = mx.array([places.get(expert, 0) for expert in experts], dtype=indices.dtype).reshape(indices.shape)
        scratch.install(layer.inner)
        try:
            y: mx.array = layer.inner(x, slots, *args, **kwargs)
        finally:
            layer.bank.install(layer.inner)
        scratch.using(y)
        return y


class _Audited:
    """Stands in front of the model's class while an auditor is entered."""

    def __call__(self: Any, inputs: Any, cache: Any = None, **kwargs: Any) -> Any:
        auditor: Auditor = self.moe_mlx_auditor
        call = super().__call__  # type: ignore[misc]
        if not auditor.due(inputs, cache):
            return call(inputs, cache=cache, **kwargs)
        exact = auditor.exact(inputs, cache, call, **kwargs)
        logits = call(inputs, cache=cache, **kwargs)
        auditor.compare(exact, logits)
        return logits
