"""Proves before a conversion that what it is going to write can be loaded, and finds what loading would drop.

The very loader is run: mlx-lm's class built from config.json, its `sanitize`, its quantisation and its strict loading
over the lazy tensors, and the tokenizer's files. No weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten

from moe_mlx.errors import MoeMlxError, UnsupportedModelError
from moe_mlx.loading.graph import Origin, origins
from moe_mlx.loading.skeleton import Described, Skeleton, build, read_weights
from moe_mlx.loading.token_ids import check_tokenizer
from moe_mlx.loading.tokenizer import load_tokenizer
from moe_mlx.planning.kv_cache import kv_bytes, kv_element_bytes


class Candidate(Described, Protocol):
    """A checkpoint that is to be converted, its experts found."""

    @property
    def root(self) -> Path:
        """Its folder."""

    @property
    def weights(self) -> Mapping[str, Any] | None:
        """Lazy tensors in the form in which they are to be stored; None where the shards hold them so already."""


def prove(candidate: Candidate, say: Callable[[str], None]) -> frozenset[str]:
    """Builds the model as loading the store will, and returns what can be left out of it.

    A model with code of its own, which no conversion runs, is taken as it is, and so is a tokenizer with such.

    Args:
        candidate: What is to be converted.
        say: Gets remarks, one line each.

    Returns:
        Names of resident tensors that no parameter of the model is computed from, and without which every parameter
        comes out the same; all of them, or none.

    Raises:
        StoreError: config, tensors or tokenizer files contradict each other, or one of them is missing.
        UnsupportedModelError: mlx-lm has no such model.
    """
    config = dict(candidate.config)
    if config.get("model_file") is not None:
        return frozenset()
    given = dict(read_weights(candidate.resident_shards) if candidate.weights is None else candidate.weights)
    resident = {name: array for name, array in given.items() if name not in candidate.expert_names}
    skeleton = build(candidate.root, candidate, weights=resident)
    kv_bytes(config, 1, kv_element_bytes(config))
    eos = skeleton.config.get("eos_token_id")
    try:
        tokenizer = load_tokenizer(candidate.root, None, eos_token_ids=eos, trust_remote_code=False)
    except UnsupportedModelError:  # it wants its own code to run
        pass
    else:
        if remark := check_tokenizer(skeleton.model, tokenizer, candidate.root):
            say(remark)
    made = _origins(skeleton, resident)
    unused = resident.keys() - frozenset[str]().union(*(inputs for inputs, _ in made.values()))
    if not unused:
        return frozenset()
    # A `sanitize` may look at what it drops: whether a name is there can decide what becomes of another.
    rest = {name: array for name, array in resident.items() if name not in unused}
    try:
        same = _origins(build(candidate.root, candidate, weights=rest), rest) == made
    except MoeMlxError:
        same = False
    return frozenset(unused) if same else frozenset()


def _origins(skeleton: Skeleton, resident: Mapping[str, mx.array]) -> dict[str, Origin]:
    """Returns what each parameter that is no routed expert is computed from."""
    experts = tuple(f"{path}." for path, _ in skeleton.switches)
    parameters = dict(tree_flatten(skeleton.model.parameters()))
    return origins({name: a for name, a in parameters.items() if not name.startswith(experts)}, resident)
