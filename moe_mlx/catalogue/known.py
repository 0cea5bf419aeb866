"""Ten published mixture-of-experts models by their shapes, so that they can be planned for without a network.

`known_models.json` holds the keys of each publisher's config.json that sizes follow from, for the quantised MLX
repository that is named. `resident_nbytes` and `looked_up_nbytes` are what mlx-lm's own class has for that config; a
test builds every one and compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from moe_mlx.planning.shape import ModelShape
from moe_mlx.store.families import family_of
from moe_mlx.store.family import GLU, expert_count, top_k
from moe_mlx.store.spec import ExpertLayer, TensorSpec

_TABLE = Path(__file__).with_name("known_models.json")
FORM = "checkpoint on the hub, by its published shape"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A published model.

    Attributes:
        name: As its publisher calls it.
        repo: A quantised MLX checkpoint of it on the hub.
        parameters: How many it has, routed experts included.
        shape: Of that checkpoint; no digit of it was read from the hub.
    """

    name: str
    repo: str
    parameters: int
    shape: ModelShape

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return self.shape.nbytes


@cache
def known_models() -> tuple[KnownModel, ...]:
    """Returns the table, smallest first."""
    return tuple(_model(row) for row in json.loads(_TABLE.read_text()))


def known_named(name: str) -> KnownModel | None:
    """Returns the known model of that name or repository; capitals and the repository's owner may be left out."""
    wanted = name.lower()
    for model in known_models():
        repo = model.repo.lower()
        if wanted in (model.name.lower(), repo, repo.rpartition("/")[2]):
            return model
    return None


def offer(name: str) -> str:
    """Returns what can be planned for without a network, the nearest to `name` first."""
    names = [model.name for model in known_models()]
    near = get_close_matches(name.rpartition("/")[2], names, n=1, cutoff=0.5)
    meant = f"Did you mean {near[0]}? " if near else ""
    return f"{meant}Known without a network: {', '.join(names)}"


def _model(row: Mapping[str, Any]) -> KnownModel:
    config = row["config"]
    where = Path(row["repo"])
    family = family_of(config, where)
    experts = expert_count(config, family, where)
    tensors = _tensors(config["hidden_size"], row["inner"], row["mode"])
    first, count = row["first_moe_layer"], config["num_hidden_layers"]
    layers = tuple(
        ExpertLayer(
            number - first,
            number,
            f"{family.containers[0]}.{number}.{family.switch}",
            experts,
            top_k(config, family, number, where),
            tensors,
        )
        for number in range(first, count)
    )
    shape = ModelShape(row["repo"], FORM, config, layers, row["resident_nbytes"], row["looked_up_nbytes"])
    return KnownModel(row["name"], row["repo"], row["parameters"], shape)


def _tensors(hidden: int, inner: int, mode: str) -> tuple[TensorSpec, ...]:
    """Returns an expert's tensors: affine 4 bits in groups of 64, or mxfp4 in groups of 32 with a bias."""
    specs: list[TensorSpec] = []
    for projection in GLU:
        rows, columns = (hidden, inner) if projection == "down_proj" else (inner, hidden)
        parts: Sequence[tuple[str, str, tuple[int, ...]]] = (
            ("weight", "U32", (rows, columns // 8)),
            ("scales", "BF16", (rows, columns // 64)),
            ("biases", "BF16", (rows, columns // 64)),
        )
        if mode == "mxfp4":
            parts = (parts[0], ("scales", "U8", (rows, columns // 32)), ("bias", "BF16", (rows,)))
        specs += [TensorSpec(f"{projection}.{part}", dtype, shape) for part, dtype, shape in parts]
    return tuple(specs)
