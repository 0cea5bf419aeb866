"""Builds the library's own model around our banks: its loader runs over placeholders, then the switches are swapped.

`mlx_lm.utils.load_model` does everything it always does (sanitize, quantise, strict loading) but to look for weights:
it takes a folder's name for a pattern, so it is handed the tensors of exactly the shards that were checked. Routed
experts go through it as lazy arrays of the right shape that are never evaluated; where they end up tells which module
is whose. A family that mlx-lm lacks goes through mlx-vlm's loader in the same way (`moe_mlx.vlm.building`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes, load_config, load_model

from moe_mlx.errors import MoeMlxError, StoreCorruptError, StoreMissingError, UnsupportedModelError, UsageError
from moe_mlx.expert_cache.slots import placeholders
from moe_mlx.families.dbrx import stack_experts
from moe_mlx.loading.fitting import check_fit, check_groups
from moe_mlx.loading.switches import find_switches
from moe_mlx.machines.part import Part
from moe_mlx.store import ExpertLayer, ExpertSource
from moe_mlx.store.families import MLX_LM, MLX_VLM, library_of
from moe_mlx.vlm.building import build_model


class Described(Protocol):
    """What a skeleton needs of an `ExpertSource`, or of a checkpoint that is still to be converted."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config.json."""

    @property
    def layers(self) -> tuple[ExpertLayer, ...]:
        """Its MoE layers."""

    @property
    def expert_names(self) -> frozenset[str]:
        """Tensors of the shards that hold routed experts."""

    @property
    def resident_shards(self) -> tuple[Path, ...]:
        """The shards."""


class _Weightless(type(Path())):  # type: ignore[misc]
    """A model's folder in which mlx-lm's own search for weights, by a pattern, finds none."""

    def __truediv__(self, name: Any) -> Path:
        return Path(os.devnull, "none") if "*" in str(name) else Path(self, name)


def read_weights(shards: Sequence[Path]) -> dict[str, mx.array]:
    """Returns every tensor of some shards, lazy, by name."""
    weights: dict[str, mx.array] = {}
    for shard in shards:
        weights |= mx.load(str(shard))
    return weights


@dataclass(frozen=True, slots=True)
class Skeleton:
    """mlx-lm's model before it has experts.

    Attributes:
        model: Its other weights lazy, its routed experts placeholders.
        config: Its config.
        switches: Per MoE layer the switch's module path and module.
        resident_nbytes: Bytes that its other weights take in memory.
    """

    model: nn.Module
    config: dict[str, Any]
    switches: list[tuple[str, nn.Module]]

    @property
    def family(self) -> str:
        """What mlx-lm calls the family."""
        return str(self.config.get("model_type", "this family"))

    resident_nbytes: int


def build(
    folder: Path,
    source: Described,
    *,
    model_config: dict[str, Any] | None = None,
    trust_remote_code: bool = False,
    weights: Mapping[str, mx.array] | None = None,
    pictures: bool = False,
) -> Skeleton:
    """Loads a model whose routed experts are placeholders.

    Args:
        folder: A store, or an MLX checkpoint that runs in place.
        source: The experts of that folder.
        model_config: Overrides of the config, as for mlx_lm.
        trust_remote_code: Whether a config may bring its own model file.
        weights: Lazy tensors to load instead of those in the source's shards.
        pictures: Whether pictures will be shown to it: by mlx-vlm then, vision tower included.

    Raises:
        UnsupportedModelError: the library has no such model, or changes its experts while loading.
        StoreCorruptError: the weights do not fit the config.
    """
    own_code = _own_code(folder, {**source.config, **(model_config or {})}, trust_remote_code)
    owners: dict[int, tuple[int, str]] = {}
    kept: dict[str, mx.array] = {}

    def stand_in(weights: dict[str, mx.array]) -> dict[str, mx.array]:
        for name in source.expert_names:
            weights.pop(name, None)
        for layer in source.layers:
            for (name, array), spec in zip(
                placeholders(layer.path, layer.experts, layer.tensors).items(), layer.tensors, strict=True
            ):
                weights[name] = kept[name] = array
                owners[id(array)] = (layer.index, spec.name)
        return weights

    def given() -> dict[str, mx.array]:
        return stand_in(dict(read_weights(source.resident_shards) if weights is None else weights))

    def classes(config: dict[str, Any]) -> tuple[Callable[[Any], nn.Module], type]:
        model_class, args_class = _own_classes(folder, own_code) if own_code else _get_classes(config)

        def construct(args: Any) -> nn.Module:
            model = model_class(args)
            stack_experts(model)
            original = getattr(model, "sanitize", None)

            def sanitize(none: dict[str, mx.array]) -> dict[str, mx.array]:
                found = original(given()) if original is not None else given()
                check_groups(folder, model, found, config)
                return found

            object.__setattr__(model, "sanitize", sanitize)
            _load_strictly(folder, model)
            return model

        return construct, args_class

    def check(model: nn.Module, found: Mapping[str, mx.array], config: Mapping[str, Any]) -> None:
        check_groups(folder, model, found, config)
        _load_strictly(folder, model)

    library = MLX_LM if own_code else library_of(source.config, pictures=pictures)
    try:
        if library == MLX_VLM:
            model, config = build_model(folder, {**load_config(folder), **(model_config or {})}, given(), check)
        else:
            # mlx-lm runs a model's own file past `get_model_classes`; without the key it asks us, and we run it.
            options = {**(model_config or {}), "model_file": None}
            model, config = load_model(
                _Weightless(folder), lazy=True, strict=False, model_config=options, get_model_classes=classes
            )
    except MoeMlxError:
        raise
    except FileNotFoundError as error:
        raise StoreCorruptError(f"{folder}: {error}") from error
    except Exception as error:  # whatever a model file of mlx-lm makes of a config that it never saw
        raise _explained(folder, error, library) from error
    for own in ("sanitize", "load_weights"):
        if own in vars(model):
            object.__delattr__(model, own)
    whole = sum(array.nbytes for _, array in tree_flatten(model.parameters()))
    resident = whole - sum(array.nbytes for array in kept.values())
    switches = find_switches(model, source.layers, owners, kept)
    return Skeleton(model, config, switches, resident)


def narrowed(skeleton: Skeleton, source: ExpertSource, part: Part) -> Skeleton:
    """Leaves a model and its source with the layers of one rank.

    Args:
        skeleton: Of the whole model; its model is changed.
        source: Its experts; changed as well.
        part: The rank's.

    Raises:
        UsageError: mlx-lm cannot pipeline this family, or the rank would have no layer with experts.
        StoreMissingError: the experts of one of its layers are not here.
    """
    held = part.narrow(skeleton.model, skeleton.family)
    kept = [layer.index for layer in source.layers if layer.layer in held]
    if not kept:
        raise UsageError(
            f"layers {held.start} to {held.stop - 1} of {skeleton.family} have no routed experts: give another --split"
        )
    source.keep_layers(kept)
    if absent := source.absent_layers():
        raise StoreMissingError(
            f"{source.root}: this rank runs layers {held.start} to {held.stop - 1}, and {absent[0]} is not here: copy "
            "it from a whole store, or give the --split that the store was shared out by"
        )
    whole = sum(array.nbytes for _, array in tree_flatten(skeleton.model.parameters()))
    switches = [skeleton.switches[index] for index in kept]
    return Skeleton(skeleton.model, skeleton.config, switches, whole - source.experts_nbytes)


def _own_code(folder: Path, config: Mapping[str, Any], trusted: bool) -> str | None:
    """Returns the name of the model's own code, if it has any.

    Raises:
        UnsupportedModelError: it has, and that was not allowed, or it lies outside of the folder.
    """
    name = config.get("model_file")
    if name is None:
        return None
    if not trusted:
        raise UnsupportedModelError(
            f"{folder}: config.json wants the code in {str(name)[:80]!r} to run. If you trust it, pass "
            "--trust-remote-code (trust_remote_code=True in Python)."
        )
    if not isinstance(name, str) or Path(name).name != name:
        raise UnsupportedModelError(f"{folder}: model_file = {str(name)[:80]!r} is no file of the model's folder.")
    return name


def _own_classes(folder: Path, name: str) -> tuple[Any, Any]:
    """Runs the model's own code, as mlx-lm does."""
    spec = spec_from_file_location("custom_model", folder / name)
    if spec is None or spec.loader is None:
        raise UnsupportedModelError(f"{folder / name}: no Python file")
    code = module_from_spec(spec)
    spec.loader.exec_module(code)
    return code.Model, code.ModelArgs


def _load_strictly(folder: Path, model: nn.Module) -> None:
    """Lets a model compare what it is given with what it has, and name what differs."""

    def load_weights(named: list[tuple[str, mx.array]], strict: bool = True) -> nn.Module:
        check_fit(folder, model, dict(named))
        return type(model).load_weights(model, named, strict=True)

    object.__setattr__(model, "load_weights", load_weights)


def _explained(folder: Path, error: Exception, library: str) -> MoeMlxError:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "not supported" in text:
        return UnsupportedModelError(f"{folder}: {text}")
    if isinstance(error, KeyError | TypeError):
        return StoreCorruptError(f"{folder}: the config lacks or contradicts what its model needs: {text}")
    return StoreCorruptError(f"{folder}: {library} cannot load it: {text}")


def replace_module(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """Puts `module` at `path` and returns its parent module (an item of a list counts as its owner's)."""
    *above, leaf = path.split(".")
    holder: Any = model
    parent: nn.Module = model
    for name in above:
        holder = holder[int(name)] if isinstance(holder, list | tuple) else getattr(holder, name)
        if isinstance(holder, nn.Module):
            parent = holder
    if isinstance(holder, list):
        holder[int(leaf)] = module
    else:
        setattr(holder, leaf, module)
    return parent
