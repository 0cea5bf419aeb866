"""What an evaluation found: a row for each setting, kept in a file that an interrupted run goes on from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.setting import Setting
from moe_mlx.routing.names import DEFAULT_BEYOND, DEFAULT_DISTANCE, DEFAULT_FORM, EXACT
from moe_mlx.routing.price import KL, read_quality
from moe_mlx.system.whole_files import write_whole

FORMAT, VERSION = "moe-mlx eval", 1


@dataclass(frozen=True, slots=True)
class Row:
    """One setting and what it gave. Shares and rates are in [0, 1]; the first row of a report is the reference.

    Attributes:
        cache: The cap as asked for; "100%" for the reference.
        slots: Slots of all layers together.
        routing: Policy.
        value: Its parameter.
        top_j: J as asked for.
        evict: Eviction.
        tokens: Tokens scored.
        ppl: Perplexity.
        ppl_change: Against the fully resident exact run: 0.01 is +1%.
        ppl_error: Standard error of `ppl_change`.
        kl: KL(exact || policy) a token, in nats.
        agreement: Top-1 agreement with the exact run.
        miss_rate: Misses / (tokens x top-k), over layers.
        bytes_per_token: Expert bytes read a token.
        swapped: Share of chosen experts that exact routing would not have chosen.
        lifetime: Mean number of consecutive tokens an expert stays resident.
        accuracy: Exact match on the tasks; None without tasks.
        task_miss_rate: Miss rate of the decode steps while answering them.
        tasks: Tasks answered.
        light: What absent light experts did.
        beyond: Share of a token's weight before a light expert.
        distance: Layers later that late outputs were added.
        kl_error: Standard error of `kl`.
        blocking: Misses a token that a layer waited for.
        waits: Layers a token that waited for reads.
        late: Late uses a token.
        late_weight: Their share of the weight of all chosen experts.
        coarse: Coarse uses a token.
        coarse_weight: Their share of the weight.
        promotions: Misses a token of which only the low bits were read.
        fitted: Whether each layer had its own threshold, by a fit.
        form: What of an expert a coarse one is.
        quality: What was held by moving the routing; "" where it stayed.
        spent: Loss a token that its audits found, in the measure of `quality`.
        audit_bytes: Expert bytes read for them, a token; not in `bytes_per_token`.
        redone: Share of tokens that were computed again, with all experts.
        prompt_bytes: Expert bytes that prompts read between answers, a token scored; in no other count.
    """

    cache: str
    slots: int
    routing: str
    value: float | None
    top_j: int | None
    evict: str
    tokens: int
    ppl: float
    ppl_change: float
    ppl_error: float
    kl: float
    agreement: float
    miss_rate: float
    bytes_per_token: float
    swapped: float
    lifetime: float
    accuracy: float | None = None
    task_miss_rate: float | None = None
    tasks: int = 0
    light: str = EXACT
    beyond: float = DEFAULT_BEYOND
    distance: int = DEFAULT_DISTANCE
    kl_error: float = 0.0
    blocking: float = 0.0
    waits: float = 0.0
    late: float = 0.0
    late_weight: float = 0.0
    coarse: float = 0.0
    coarse_weight: float = 0.0
    promotions: float = 0.0
    fitted: bool = False
    form: str = DEFAULT_FORM
    quality: str = ""
    spent: float = 0.0
    audit_bytes: float = 0.0
    redone: float = 0.0
    prompt_bytes: float = 0.0

    @property
    def over_budget(self) -> float | None:
        """What a held row lost of its budget against the reference: 0.1 is 10% too much; None of other rows."""
        if not self.quality:
            return None
        quality = read_quality(self.quality)
        lost = self.kl if quality.measure == KL else 1 - self.agreement
        return lost / quality.budget - 1

    @property
    def setting(self) -> Setting:
        """The setting of this row."""
        light = (self.light, self.beyond, self.distance, self.fitted)
        return Setting(self.cache, self.routing, self.value, self.top_j, self.evict, *light, self.quality, self.form)


@dataclass
class Report:
    """The rows of one evaluation and what they hold for.

    Attributes:
        model: Identity of the model.
        name: Its folder, for people.
        data: Digest of the tokens scored and the tasks.
        tokens: Tokens scored.
        tasks: Tasks asked.
        protocol: How it was scored, in words.
        reference: The fully resident exact run.
        rows: Every other setting.
        path: Where the report is kept, if anywhere.
    """

    model: str
    name: str
    data: str
    tokens: int
    tasks: int
    protocol: str
    reference: Row | None = None
    rows: dict[str, Row] = field(default_factory=dict)
    path: Path | None = None

    def add(self, key: str, row: Row) -> None:
        """Takes a row and keeps the file up to date."""
        self.rows[key] = row
        self.write()

    def as_dict(self, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Returns the report for `--json`, its rows those of `keys` in their order."""
        wanted = list(self.rows) if keys is None else keys
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "name": self.name,
            "data": self.data,
            "tokens": self.tokens,
            "tasks": self.tasks,
            "protocol": self.protocol,
            "reference": None if self.reference is None else asdict(self.reference),
            "rows": [asdict(self.rows[key]) for key in wanted],
        }

    def write(self) -> None:
        """Writes the file, if it is to be kept in one."""
        if self.path is not None:
            write_whole(self.path, json.dumps(self.as_dict(), indent=1) + "\n")

    def resume(self, path: Path) -> None:
        """Goes on from a results file, or begins one.

        Raises:
            UsageError: it is no results file, or one of another model, other data or another number of tokens.
        """
        self.path = path
        if not path.exists():
            return
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["format"] != FORMAT or kept["version"] != VERSION:
                raise ValueError("another format or version")
            rows = [Row(**row) for row in kept["rows"]]
            reference = None if kept["reference"] is None else Row(**kept["reference"])
            name, model, data = str(kept["name"]), kept["model"], kept["data"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} holds no results of `moe-mlx eval`: {error}") from error
        for what, found, expected in (("model", model, self.model), ("data or limits", data, self.data)):
            if found != expected:
                raise UsageError(
                    f"{path} holds results of another {what} ({name}, {found[:8]}; this is {self.name}, "
                    f"{expected[:8]}): name another file"
                )
        self.reference = reference
        self.rows = {row.setting.key: row for row in rows}
