"""Another model's exact run as the reference: what a model that was made of it has lost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from moe_mlx.errors import UsageError
from moe_mlx.evaluation.documents import Task, encode
from moe_mlx.evaluation.progress import Progress
from moe_mlx.evaluation.reference import Reference
from moe_mlx.evaluation.results import Report
from moe_mlx.evaluation.run import Evaluation
from moe_mlx.evaluation.scoring import PROTOCOL
from moe_mlx.loading.attachment import runtime_of
from moe_mlx.loading.loader import load
from moe_mlx.store import open_source
from moe_mlx.store.identity import identity_of
from moe_mlx.store.resolve import resolve


def identity_at(name: str) -> str:
    """Returns the identity of a model by its name, without loading it.

    Raises:
        StoreError: it is missing or corrupt.
    """
    with open_source(resolve(name)) as source:
        return identity_of(source)


def said_by(
    name: str,
    texts: Sequence[str],
    documents: Sequence[Sequence[int]],
    tasks: Sequence[Task],
    report: Report,
    progress: Progress,
    *,
    cache: str,
    decode: str,
    limit: int | None,
) -> Reference:
    """Scores another model, which is closed again, and makes its row the report's reference.

    Args:
        name: The other model.
        texts: What is scored.
        documents: The same in the tokens of the model that is evaluated.
        tasks: Possibly none.
        report: Of the model that is evaluated.
        progress: Hears how far it is.
        cache: The cap where it does not fit whole.
        decode: As for `load`.
        limit: Most tokens.

    Returns:
        What it says of every token; to be closed.

    Raises:
        UsageError: it has other tokens, so that the two cannot be compared.
        StoreError: it is missing or corrupt.
    """
    model, tokenizer = load(
        name, expert_cache=cache, routing="exact", decode=decode, say=lambda line: print(line, file=sys.stderr)
    )
    runtime = runtime_of(model)
    try:
        if encode(texts, tokenizer, limit) != [list(document) for document in documents]:
            raise UsageError(f"{name}: its tokenizer makes other tokens of this text, so nothing can be compared")
        own = Report(identity_of(runtime.source), Path(name).name, report.data, report.tokens, report.tasks, PROTOCOL)
        found = Evaluation(model, tokenizer, documents, tasks, own, progress).refer(cache)
    finally:
        runtime.close()
    report.reference = own.reference
    report.write()
    return found
