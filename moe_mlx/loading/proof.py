"""Proves before a conversion that what it is going to write can be loaded, and finds what loading would drop.

The very loader is run: mlx-lm's class built from config.json, its `sanitize`, its quantisation and its strict loading
over the lazy tensors, and the tokenizer's files. No weight is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten

from moe_mlx.errors import MoeMlxError, UnsupportedModelError
from moe_mlx.expert_cache.slots import DTYPES
from moe_mlx.loading.graph import Origin, origins
from moe_mlx.loading.skeleton import Described, Skeleton, build, read_weights
from moe_mlx.loading.token_ids import check_tokenizer
from moe_mlx.loading.tokenizer import load_tokenizer
from moe_mlx.planning.kv_cache import kv_bytes, kv_element_bytes
from moe_mlx.store.families import MLX_VLM, library_of, takes_pictures
from moe_mlx.store.header import Entry
from moe_mlx.system.sizes import show_bytes
from moe_mlx.vlm.installed import INSTALL, missing


class Candidate(Described, Protocol):
    """A checkpoint that is to be converted, its experts found."""

    @property
    def root(self) -> Path:
        """Its folder."""

    @property
    def weights(self) -> Mapping[str, Any] | None:
        """Lazy tensors in the form in which they are to be stored; None where the shards hold them so already."""

    @property
    def entries(self) -> Mapping[str, Entry] | None:
        """Every tensor by name, where the shards have not arrived yet."""


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
    given = _given(candidate)
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
    unused -= _for_pictures(candidate, resident, unused, say)
    if not unused:
        return frozenset()
    # A `sanitize` may look at what it drops: whether a name is there can decide what becomes of another.
    rest = {name: array for name, array in resident.items() if name not in unused}
    try:
        same = _origins(build(candidate.root, candidate, weights=rest), rest) == made
    except MoeMlxError:
        same = False
    return frozenset(unused) if same else frozenset()


def _given(candidate: Candidate) -> dict[str, mx.array]:
    """Returns the tensors that will be stored, lazy: stand-ins of their shape where they have not arrived yet.

    Raises:
        UnsupportedModelError: a dtype that MLX does not have.
    """
    if candidate.weights is not None:
        return dict(candidate.weights)
    if candidate.entries is None:
        return read_weights(candidate.resident_shards)
    for name, entry in candidate.entries.items():
        if entry.dtype not in DTYPES:
            raise UnsupportedModelError(f"{candidate.root}: {name[:80]!r} is {entry.dtype}, which MLX does not load.")
    return {
        name: mx.broadcast_to(mx.array(1, DTYPES[entry.dtype]), entry.shape)
        for name, entry in candidate.entries.items()
    }


def _for_pictures(
    candidate: Candidate, resident: Mapping[str, mx.array], unused: Collection[str], say: Callable[[str], None]
) -> frozenset[str]:
    """Returns which of the tensors that mlx-lm drops mlx-vlm takes, to show the model pictures."""
    config = candidate.config
    if not unused or library_of(config) == MLX_VLM or not takes_pictures(config):
        return frozenset()
    if missing():
        say(f"what mlx-lm drops may be a vision tower; a store keeps it where mlx-vlm is installed: {INSTALL}")
        return frozenset()
    try:
        skeleton = build(candidate.root, candidate, weights=resident, pictures=True)
    except MoeMlxError as error:
        say(f"the store will take no pictures: {error}")
        return frozenset()
    taken = frozenset[str]().union(*(inputs for inputs, _ in _origins(skeleton, resident).values())) & set(unused)
    if taken:
        size = show_bytes(sum(resident[name].nbytes for name in taken))
        say(f"a vision tower is kept for pictures, and takes no memory without them: {len(taken)} tensors, {size}")
    return taken


def _origins(skeleton: Skeleton, resident: Mapping[str, mx.array]) -> dict[str, Origin]:
    """Returns what each parameter that is no routed expert is computed from."""
    experts = tuple(f"{path}." for path, _ in skeleton.switches)
    parameters = dict(tree_flatten(skeleton.model.parameters()))
    return origins({name: a for name, a in parameters.items() if not name.startswith(experts)}, resident)
