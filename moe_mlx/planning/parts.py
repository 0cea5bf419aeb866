"""What a checkpoint holds beside its language model, and what becomes of it: towers, prediction heads, tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moe_mlx.store.families import MLX_VLM, family_of, library_of, takes_pictures
from moe_mlx.store.family import layer_count

VISION, AUDIO, PREDICTION, TABLES = "vision tower", "audio parts", "multi-token prediction", "n-gram tables"
#: Of a tower that mlx-lm leaves on the disk and mlx-vlm loads.
ONLY_WITH_PICTURES = "resident with pictures only"
_KINDS = (
    (TABLES, re.compile(r"ngram|n_gram|ple_embedding")),
    (PREDICTION, re.compile(r"(^|[._])mtp|nextn")),
    (AUDIO, re.compile(r"audio|whisper|sound_|speech|talker|code2wav")),
    (VISION, re.compile(r"vision|visual|(^|\.)vit|sam_model|image_|img_|mm_projector|multi_modal_projector|aligner")),
)
_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h)\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of tensors that are no part of the language model.

    Attributes:
        kind: What they are.
        nbytes: Bytes in the shards.
        fate: What becomes of them.
    """

    kind: str
    nbytes: int
    fate: str

    def as_json(self) -> dict[str, Any]:
        """Returns it as the verbs print it."""
        return asdict(self)


def parts_of(config: Mapping[str, Any], tensors: Iterable[tuple[str, int]], where: object) -> tuple[Part, ...]:
    """Returns what is there of each kind, by names alone.

    Args:
        config: The model's config.json.
        tensors: Name and bytes of every tensor of its shards.
        where: The model, named in errors.
    """
    count = layer_count(config, family_of(config, where))
    found: dict[str, int] = {}
    for name, nbytes in tensors:
        if (kind := _kind(name, count)) is not None:
            found[kind] = found.get(kind, 0) + nbytes
    return tuple(Part(kind, nbytes, _fate(kind, config)) for kind, nbytes in sorted(found.items()))


def _kind(name: str, layers: int | None) -> str | None:
    for kind, words in _KINDS:
        if words.search(name):
            return kind
    numbers = [int(number) for number in _LAYER.findall(name)]
    return PREDICTION if layers is not None and numbers and numbers[0] >= layers else None


def _fate(kind: str, config: Mapping[str, Any]) -> str:
    library = library_of(config)
    if kind == TABLES:
        return "resident"
    if kind == PREDICTION:
        return "not loaded: a head that drafts stands in a folder of its own (docs/drafting.md)"
    if library == MLX_VLM:
        return "resident"
    return ONLY_WITH_PICTURES if kind == VISION and takes_pictures(config) else "not loaded: text only"
