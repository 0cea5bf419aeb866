"""What `inspect --experts` shows: use, pairs and affinity as tables, JSON, and what they mean for prefetch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.affinity import LayerUse, uses_of_history, uses_of_trace
from moe_mlx.evaluation.guessing import Guessed, judge
from moe_mlx.evaluation.trace import Trace, load_trace
from moe_mlx.history.file import AUTO, History, NoHistoryError, history_path, read_history
from moe_mlx.history.profiles import check_profile, profile_path
from moe_mlx.planning.budget import slots_for_share
from moe_mlx.store import ExpertSource
from moe_mlx.store.identity import identity_of
from moe_mlx.system.sizes import show_bytes
from moe_mlx.system.table import render, share

#: The cap that guessers are judged at, as a share of the experts.
JUDGED_AT = 0.5
#: Tokens a guesser must be judged on before a sentence is made of it.
LEAST_TOKENS = 200
#: By how much the better precision must lead to be called better.
CLEAR_LEAD = 0.02
_HOTTEST, _PAIRS = 6, 3


@dataclass(frozen=True)
class ExpertUse:
    """A model's use of its experts.

    Attributes:
        name: Of the model, for people.
        model: Its identity.
        origin: "trace" or "history".
        numbers: The model's own number of each layer, or its ordinal where only a trace was at hand.
        layers: In the order of execution.
        guesses: How the guessers did; none from a history, nor from a trace of other than exact routing.
    """

    name: str
    model: str
    origin: str
    numbers: tuple[int, ...]
    layers: tuple[LayerUse, ...]
    guesses: tuple[Guessed, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns everything counted, matrices as lists of rows."""
        return {
            "model": self.model,
            "name": self.name,
            "from": self.origin,
            "layers": [
                {
                    "layer": number,
                    "tokens": layer.tokens,
                    "uses": layer.uses.tolist(),
                    "used": layer.used,
                    "effective": layer.effective,
                    "together": None if layer.together is None else layer.together.tolist(),
                    "onward": None if layer.onward is None else layer.onward.tolist(),
                }
                for number, layer in zip(self.numbers, self.layers, strict=True)
            ],
            "judged_at": JUDGED_AT if self.guesses else None,
            "guesses": [
                {**asdict(guess), "precision": guess.precision, "recall": guess.recall} for guess in self.guesses
            ],
        }

    def text(self) -> str:
        """Returns the tables."""
        parts = [self._use_table()]
        if any(layer.together is not None for layer in self.layers):
            parts.append(self._pair_table())
        else:
            parts.append(
                "A history holds counts alone: for pairs and affinity give a trace of `moe-mlx eval --routing exact "
                "--trace FILE`."
            )
        if self.guesses:
            parts += [self._guess_table(), self.verdict()]
        return "\n\n".join(parts)

    def _use_table(self) -> str:
        rows = [
            [
                str(number),
                f"{layer.used} of {len(layer.uses)}",
                f"{layer.effective:.1f}",
                share(layer.carried(0.25)),
                " ".join(map(str, layer.hottest(_HOTTEST))),
            ]
            for number, layer in zip(self.numbers, self.layers, strict=True)
        ]
        heads = ["layer", "experts\nused", "as many as\nequal ones", "uses by the\nhottest 25%", "most used"]
        return render(heads, rows, left=(0, 4))

    def _pair_table(self) -> str:
        rows = []
        for number, layer in zip(self.numbers, self.layers, strict=True):
            pairs = [f"{a}+{b} {both:.0%} ({lift:.1f}x)" for a, b, both, lift in layer.pairs(_PAIRS)]
            rows.append([str(number), ", ".join(pairs) or "-"])
        return render(["layer", "used together: share of tokens (times more than by chance)"], rows, left=(0, 1))

    def _guess_table(self) -> str:
        rows = [
            [
                guess.guesser,
                f"{guess.begun:,}",
                share(guess.precision),
                share(guess.recall),
                show_bytes(guess.wasted_bytes / guess.tokens),
            ]
            for guess in self.guesses
        ]
        table = render(["guesser", "prefetched", "precision", "recall", "wasted/token"], rows)
        tokens = self.guesses[0].tokens
        head = f"Guessing the next layer, {JUDGED_AT:.0%} of the experts held, {tokens:,} tokens not learned from:"
        return f"{head}\n{table}"

    def verdict(self) -> str:
        """Returns what the guesses mean for prefetch, in a sentence or two."""
        by_name = {guess.guesser: guess for guess in self.guesses}
        affinity, hottest, gate = by_name["affinity"], by_name["hottest"], by_name.get("gate")
        if affinity.tokens < LEAST_TOKENS:
            return f"{affinity.tokens} tokens are too few to say more: record a trace of {2 * LEAST_TOKENS} or more."
        if affinity.precision < hottest.precision + CLEAR_LEAD:
            said = "What was just chosen says no more about the next layer than plain use does."
        else:
            gained = affinity.precision - hottest.precision
            said = f"Guesses by what was just chosen are right {gained * 100:.0f} points more often than by plain use."
        if gate is None:
            return f"{said} The trace holds no guesses of the next layer's router to compare with."
        if affinity.precision > gate.precision + CLEAR_LEAD:
            return f"{said} It beats the router asked early, which --prefetch uses."
        return (
            f"{said} The router asked early, which --prefetch uses, is right {share(gate.precision, 0)} of the time "
            f"against {share(affinity.precision, 0)}: affinity adds nothing to it."
        )


def use_of_trace(trace: Trace, numbers: Sequence[int] | None = None) -> ExpertUse:
    """Counts a trace.

    Args:
        trace: Any recorded run; the model's own choices are counted, whatever the policy used.
        numbers: The model's own number of each layer, where the model is at hand.
    """
    guesses: list[Guessed] = []
    if len(trace.layers) > 1 and trace.setting["routing"] == "exact" and trace.tokens > 1:
        guesses = judge(trace.layers, slots_for_share(trace.sized, JUDGED_AT))
    return ExpertUse(
        name=trace.name,
        model=trace.model,
        origin="trace",
        numbers=tuple(numbers or range(len(trace.layers))),
        layers=tuple(uses_of_trace(trace.layers)),
        guesses=tuple(guesses),
    )


def read_use(file: str, folder: str | None, source: ExpertSource | None, profile: str | None = None) -> ExpertUse:
    """Reads a trace or a history, whichever `file` is.

    Args:
        file: A file, or "auto" for the model's own history.
        folder: Where histories are kept; None for the user's own.
        source: The model; a history needs one, a trace is refused if it is of another.
        profile: Whose history "auto" is, instead of the model's own.

    Raises:
        UsageError: there is no such file, it is neither, or it is of another model.
    """
    if file != AUTO and _is_trace(Path(file)):
        trace = load_trace(Path(file))
        if source is None:
            return use_of_trace(trace)
        trace.check_model(identity_of(source), source.root.name)
        return use_of_trace(trace, [layer.layer for layer in source.layers])
    if source is None:
        raise UsageError("a history alone does not say what its numbers are of: name the MODEL before --experts")
    try:
        model = identity_of(source)
        own = history_path(folder or AUTO, model)
        if (profile := check_profile(profile)) is not None:
            own = profile_path(folder or AUTO, profile, model)
        path = own if file == AUTO else Path(file)
        history = read_history(path, model, source.layers)
    except NoHistoryError as error:
        raise UsageError(f"{file} is neither a trace nor a history of {source.root.name}: {error}") from None
    if history is None:
        raise UsageError(f"no history of {source.root.name} at {path}: chat with it first, or give a trace")
    return use_of_history(history, source, model)


def use_of_history(history: History, source: ExpertSource, model: str) -> ExpertUse:
    """Returns what a history of that model, whose identity is `model`, tells."""
    layers = uses_of_history(history, [layer.top_k for layer in source.layers])
    numbers = tuple(layer.layer for layer in source.layers)
    return ExpertUse(source.root.name, model, "history", numbers, tuple(layers))


def _is_trace(path: Path) -> bool:
    """Whether it is an archive, as traces are.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
