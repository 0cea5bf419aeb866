"""Gives bits to a model's experts: measures it on a text, and shares out the bits that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moe_mlx.bits.allocation import allocate, check_bits, mean_bits
from moe_mlx.bits.output_error import measure
from moe_mlx.bits.rounding import Rounding, config_with
from moe_mlx.errors import UsageError
from moe_mlx.evaluation.documents import WINDOW, digest_of, encode, read_texts
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.loader import load
from moe_mlx.planning.budget import cache_bytes
from moe_mlx.store import ExpertSource
from moe_mlx.store.demo import DEMO
from moe_mlx.store.given import Given
from moe_mlx.store.parts import WIDTHS
from moe_mlx.system.given import check_choice, check_whole
from moe_mlx.system.talk import Count, Talk

#: How bits are given: by the error that each width costs an expert, or the experts of a layer together, or the same
#: to all.
ERROR, LAYER, UNIFORM = "error", "layer", "uniform"
WAYS = (ERROR, LAYER, UNIFORM)
#: Tokens of a text that are measured on where nobody says how many.
TOKENS = 2048


class Giving:
    """Gives bits to the experts of one model.

    Args:
        source: The model, opened.
        bits: Mean over all weights of the experts; a whole number where it is the same for all.
        by: One of `WAYS`.
        text: What to measure on, as `moe-mlx eval --data` takes it.
        tokens: Most tokens of it.
        say: Gets remarks.
        talk: Shows progress.

    Attributes:
        layers: What rounds each layer.
        calibration: What is measured on, in a few words.

    Raises:
        UsageError: bits that cannot be given, or a text that cannot be read.
        UnsupportedModelError: weights that cannot be given fewer bits.
    """

    def __init__(
        self,
        source: ExpertSource,
        bits: float,
        *,
        by: str = ERROR,
        text: str = DEMO,
        tokens: int = TOKENS,
        say: Callable[[str], None] = lambda line: None,
        talk: Talk | None = None,
    ) -> None:
        self._source, self.asked, self._say, self._talk = source, check_bits(bits), say, talk or Talk()
        self._by, self._tokens = check_choice("bits_by", by, WAYS), tokens
        check_whole("calibration_tokens", tokens)
        if by == UNIFORM and bits not in WIDTHS:
            raise UsageError(f"{bits:g} bits for every expert: give one of {', '.join(map(str, WIDTHS))}")
        self._texts: Sequence[str] = [] if by == UNIFORM else read_texts(text)
        way = ", by layer" if by == LAYER else ""
        self.calibration = "" if by == UNIFORM else f"{tokens} tokens of {_named(text, self._texts)}{way}"
        self.layers = tuple(Rounding(source, layer.index) for layer in source.layers)

    def config(self, held: Sequence[int]) -> dict[str, Any] | None:
        """Returns the config of the model to be, by the bits of its layers in memory; None where it stays."""
        return config_with(self._source.config, self.layers, held)

    def give(self) -> Given:
        """Measures, where bits are given by error, and gives.

        Raises:
            StoreError: the model cannot be loaded or read.
        """
        sizes = [sum(map(_size, map(rounding.shape, rounding.projections))) for rounding in self.layers]
        experts = [rounding.given.experts for rounding in self.layers]
        if self._by == UNIFORM:
            bits = tuple((int(self.asked),) * count for count in experts)
            return Given(self.asked, float(self.asked), bits, (None,) * len(experts), "")
        floor = cache_bytes(self._source.layers, [layer.top_k for layer in self._source.layers])
        model, tokenizer = load(
            self._source.root, expert_cache=floor, routing="exact", decode="readback", say=lambda line: None
        )
        runtime = runtime_of(model)
        try:
            documents = windows(encode(self._texts, tokenizer, self._tokens))
            count = Count(self._talk, "measuring", sum(map(len, documents)), unit="tokens")
            found = measure(runtime, self.layers, documents, count.reach)
        finally:
            self._talk.clear()
            runtime.close()
        if not found.weighed:
            self._say("router weights of this family are not known: each chosen expert counts alike")
        if self._by == LAYER:
            together = [[errors.sum(axis=0).tolist()] for errors in found.errors]
            one = allocate(together, [size * count for size, count in zip(sizes, experts, strict=True)], self.asked)
            bits = tuple(row * count for row, count in zip(one, experts, strict=True))
        else:
            bits = allocate([errors.tolist() for errors in found.errors], sizes, self.asked)
        relative = tuple(found.relative(index, row) for index, row in enumerate(bits))
        return Given(self.asked, mean_bits(bits, sizes), bits, relative, self.calibration)


def windows(documents: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns documents one behind the other in prompts of `WINDOW` tokens: an expert is rounded once a prompt."""
    tokens = [token for document in documents for token in document]
    return [tokens[start : start + WINDOW] for start in range(0, len(tokens), WINDOW)]


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]


def _named(text: str, texts: Sequence[str]) -> str:
    """Returns a text's name and what tells it from another of that name."""
    return f"{Path(text).name} ({digest_of([list(one.encode()) for one in texts], ())[:8]})"
