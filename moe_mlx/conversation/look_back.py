"""A look back: the tokens of an answer so far are read once more as a prompt, exactly, and compared one by one.

The exact forward goes on in a KV cache of its own, which begins as a copy of the answer's: so it is what exact routing
would have made of the conversation as it stood then, and every token of it is compared, not a sample. As in any prompt
a layer's absent experts are read once for all tokens of a look, into scratch slots; the answer's residency, ranges and
counts do not notice. Where the conversation goes on, its next prompt is read behind those tokens, in one: that look
costs a part of what the prompt does, and leaves the conversation as exact routing has it. Rows that are computed
together differ in their last bits from rows that are computed one by one, which shows as a divergence that no routing
caused; on the CPU it was below 1e-6.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from moe_mlx.conversation.divergence import divergence_of, log_probabilities
from moe_mlx.conversation.scratch import Scratch
from moe_mlx.loading.cutting import cut_back
from moe_mlx.loading.kv_room import flat_caches
from moe_mlx.loading.runtime import Runtime
from moe_mlx.planning.kv_cache import first_value
from moe_mlx.system.sizes import show_bytes

#: Rows of log-probabilities that are compared at once, so that a large vocabulary takes little memory.
_ROWS = 8
#: Of a logit, at most.
_LOGIT_NBYTES = 4
#: Logits, exact ones and as they were, that a look may hold, and how many tokens it has whatever these come to: many
#: tokens of a look read little more than few, but logits of a large vocabulary are large.
_LOGITS_NBYTES, _LEAST, _MOST = 320 * 10**6, 128, 384
#: Rows of logits that a look with a prompt behind it may hold: of its tokens twice, of the prompt once.
_MOST_ROWS = 1024


def length_of(prompt_cache: Any) -> int | None:
    """Returns the tokens that a KV cache has heard; None where none of its parts counts them."""
    heard = [getattr(part, "offset", None) for part in flat_caches(prompt_cache)]
    return max((one for one in heard if isinstance(one, int)), default=None)


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look found.

    Attributes:
        kls: KL(exact || as it was) of each token's distribution, in nats.
        agreed: Whether both find the same token likeliest.
        seconds: What it took.
    """

    kls: tuple[float, ...]
    agreed: tuple[bool, ...]
    seconds: float


class LookBack:
    """The tokens since the last look, and the exact KV cache behind them.

    Attributes:
        most: Tokens that a look may have.
        dropped: Decode steps that were cut off the KV cache before anybody looked at them.
        scratch: Slots of its own, and what was read into them.
    """

    def __init__(self, runtime: Runtime, call: Callable[..., Any]) -> None:
        """Makes the scratch slots, and takes room for a second KV cache and logits.

        Args:
            runtime: The model's.
            call: The model's own call, from tokens `[1, T]` and a KV cache to logits `[1, T, V]`.

        Raises:
            DoesNotFitError: the plan has no room for them.
        """
        self.runtime, self._call, self.dropped = runtime, call, 0
        words = first_value(runtime.config, "vocab_size")
        row = 2 * (words if isinstance(words, int) else 0) * _LOGIT_NBYTES
        self.most = min(_MOST, max(_LEAST, _LOGITS_NBYTES // max(1, row)))
        self._rows = max(2 * self.most, min(_MOST_ROWS, 2 * _LOGITS_NBYTES // max(1, row)))
        self._nbytes = runtime.plan.kv_cache + self._rows * row // 2
        what = f"--quality needs {show_bytes(self._nbytes)} for a second KV cache and logits"
        runtime.sizing.reserve(self._nbytes, what)
        try:
            self.scratch = Scratch(runtime, "--quality")
        except BaseException:
            runtime.sizing.give_back(self._nbytes)
            raise
        self.forget()

    def close(self) -> None:
        """Gives everything back."""
        self.forget()
        self.scratch.close()
        self.runtime.sizing.give_back(self._nbytes)
        self._nbytes = 0

    def forget(self) -> None:
        """Forgets the conversation; the next token begins another."""
        self._exact: list[Any] | None = None
        self._of: Any = None
        self._begun = 0
        self._inputs: list[mx.array] = []
        self._logits: list[mx.array] = []

    @property
    def waiting(self) -> int:
        """Tokens since the last look."""
        return len(self._inputs)

    def goes_on(self, prompt_cache: Any) -> bool:
        """Tells whether a model call goes on from the one before: in the same KV cache, of the same kind.

        Steps that were cut off that cache since are no part of the conversation, and dropped.
        """
        if self._exact is None or self._of is not prompt_cache:
            return False
        if [type(part) for part in self._exact] != [type(part) for part in prompt_cache]:
            return False  # mlx-lm has quantised it meanwhile
        length = length_of(prompt_cache)
        if length is None:
            return True
        excess = self._begun + self.waiting - length
        if (cut := min(self.waiting, excess)) > 0:
            del self._inputs[-cut:], self._logits[-cut:]
            self.dropped, excess = self.dropped + cut, excess - cut
        if excess > 0 and cut_back(self._exact, excess):
            self._begun, excess = self._begun - excess, 0
        return excess == 0

    def begin(self, prompt_cache: Any) -> None:
        """Takes the KV cache before an answer's first decode step: exact routing goes on from it."""
        self.forget()
        self._exact, self._of = copy.deepcopy(prompt_cache), prompt_cache
        self._begun = length_of(prompt_cache) or 0

    def took(self, inputs: mx.array, logits: mx.array) -> None:
        """Takes a decode step: its token `[1, 1]` and its logits `[1, 1, V]`."""
        self._inputs.append(inputs)
        self._logits.append(logits)

    def look(self) -> Looked:
        """Compares the tokens since the last look, between two model calls.

        Raises:
            ExpertReadError: an expert could not be read; the answer's own state is whole.
        """
        started = time.perf_counter()
        layers = self.runtime.layers
        self.runtime.drain()
        for layer in layers:
            layer.aside = self.scratch.compute
        try:
            exact = self._read(self._call, self._inputs)
        finally:
            for layer in layers:
                layer.aside = None
        return self._compared(exact, started)

    def may_read_along(self, inputs: mx.array, prompt_cache: Any) -> bool:
        """Tells whether a prompt `[1, T]` goes on from the tokens since the last look, and a look has room for it."""
        fits = 2 * self.waiting + inputs.size <= self._rows
        return fits and length_of(prompt_cache) is not None and self.goes_on(prompt_cache)

    def read_along(self, call: Callable[..., Any], inputs: mx.array, prompt_cache: Any) -> tuple[mx.array, Looked]:
        """Reads a prompt behind the tokens since the last look, and compares these.

        The prompt's KV cache is then the exact one. Reads count as the prompt's do.

        Args:
            call: The model's own call.
            inputs: `[1, T]`, the prompt or a chunk of it, which `may_read_along`.
            prompt_cache: The conversation's.

        Returns:
            The prompt's logits `[1, T, V]`, lazily, and what the look found, of no token where none waited.

        Raises:
            ExpertReadError: an expert could not be read; the prompt was not.
        """
        started, waiting = time.perf_counter(), self.waiting
        logits = self._read(call, [*self._inputs, inputs])
        for part, exact in zip(flat_caches(prompt_cache), flat_caches(self._exact or ()), strict=True):
            vars(part).update(vars(exact))
        looked = self._compared(logits, started)
        self.forget()
        return logits[:, waiting:], looked

    def _read(self, call: Callable[..., Any], inputs: list[mx.array]) -> mx.array:
        """Returns logits `[1, T, V]` of tokens in the exact KV cache."""
        try:
            exact: mx.array = call(mx.concatenate(inputs, axis=1), cache=self._exact)
            mx.eval(exact)
        except BaseException:
            self.forget()
            raise
        return exact

    def _compared(self, exact: mx.array, started: float) -> Looked:
        """Compares the tokens since the last look with the first rows of `[1, T, V]`, and waits for new ones."""
        logits, self._inputs, self._logits = self._logits, [], []
        self._begun += len(logits)
        kls: list[float] = []
        agreed: list[bool] = []
        for start in range(0, len(logits), _ROWS):
            rows = range(start, min(start + _ROWS, len(logits)))
            pairs = [(log_probabilities(exact[0, row]), log_probabilities(logits[row][0, -1])) for row in rows]
            found = [(divergence_of(p, q), mx.argmax(p) == mx.argmax(q)) for p, q in pairs]
            mx.eval(found)
            kls += [kl.item() for kl, _ in found]
            agreed += [bool(same.item()) for _, same in found]
        return Looked(tuple(kls), tuple(agreed), time.perf_counter() - started)
